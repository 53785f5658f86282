// x * g(x) where g(x) - 1/2 is odd: GELU (g the normal distribution, or its tanh form) and SiLU (g the sigmoid).
//
//   x * g(x) = x / 2 + |x| * p(|x|),   p(t) = g(t) - 1/2
//
// p is a cubic on each of 16 equal segments of [0, reach) and constant beyond. The coefficients come from the host,
// interpolated at Chebyshev nodes in double precision; for GELU with reach 5 the result is within 1e-5 of the exact.
#pragma once

#include "vec.h"

namespace vitc {

struct Activation {
    float cubic[4][kLanes];   // coefficients of the distance from the segment's beginning, in segments
    float segments_per_unit;  // 16 / reach
    float last;               // the largest FP32 below 16

    F apply(F x) const {
        const F t = abs(x);
        const F s = min(mul(t, splat(segments_per_unit)), splat(last));
        const I i = truncated(s);
        const F d = sub(s, real(i));
        F p = fma(pick(cubic[3], i), d, pick(cubic[2], i));
        p = fma(p, d, pick(cubic[1], i));
        p = fma(p, d, pick(cubic[0], i));
        return fma(t, p, mul(x, splat(0.5f)));
    }
};

}  // namespace vitc
