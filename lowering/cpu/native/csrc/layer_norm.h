// LayerNorm that leaves in u8: round((x - mean) / sqrt(var + eps) * gain + shift) + 128, where gain and shift are the
// layer's weight and bias over the output's step.
#pragma once

#include "vec.h"

namespace vitc {

struct LayerNorm {
    const float* gain;
    const float* shift;
    float epsilon;
    int32_t width;  // a multiple of 16
};

inline void layer_norm_row(const float* x, const LayerNorm& norm, uint8_t* out) {
    // Two sums at a time: one alone would wait for itself. Mean first, then the variance around it: no cancellation.
    F s0 = splat(0.0f), s1 = splat(0.0f);
    int c = 0;
    for (; c + 2 * kLanes <= norm.width; c += 2 * kLanes) {
        s0 = add(s0, load(x + c));
        s1 = add(s1, load(x + c + kLanes));
    }
    if (c < norm.width) s0 = add(s0, load(x + c));
    const F mean = splat(sum(add(s0, s1)) / static_cast<float>(norm.width));

    s0 = s1 = splat(0.0f);
    for (c = 0; c + 2 * kLanes <= norm.width; c += 2 * kLanes) {
        const F d0 = sub(load(x + c), mean), d1 = sub(load(x + c + kLanes), mean);
        s0 = fma(d0, d0, s0);
        s1 = fma(d1, d1, s1);
    }
    if (c < norm.width) {
        const F d = sub(load(x + c), mean);
        s0 = fma(d, d, s0);
    }
    const float variance = sum(add(s0, s1)) / static_cast<float>(norm.width);
    const F inverse = splat(1.0f / std::sqrt(variance + norm.epsilon));

    for (c = 0; c < norm.width; c += kLanes) {
        const F y = fma(mul(sub(load(x + c), mean), inverse), load(norm.gain + c), load(norm.shift + c));
        store_u8(out + c, add(nearest(y), splat(128)));
    }
}

}  // namespace vitc
