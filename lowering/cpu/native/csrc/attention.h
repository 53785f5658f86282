// INT8 attention of one head: softmax(q k^T * scale) v, u8 in and out (zero point 128), both products in INT8.
//
// A head's keys and values are packed like the weights of two GEMMs. A tile of query rows then takes its scores
// (FP32), its softmax, whose weights become u8 with the row's largest at 255, and its product with the values; the
// row's sum is that of the rounded weights, so they add up to one whatever the rounding did.
#pragma once

#include <algorithm>
#include <vector>

#include "gemm.h"

namespace vitc {

struct Attention {
    int32_t heads, head_dim;   // head_dim a multiple of 16
    const float* score_scale;  // a head: scale * q_step * k_step * log2(e), so that scores are exponents of 2
    const float* value_scale;  // a head: v_step / out_step
};

inline int in_panels(int n) { return (n + kPanel - 1) / kPanel * kPanel; }

// What a thread needs for one head; grows to the longest sequence it has seen.
class AttentionScratch {
   public:
    // Room for a head of so many tokens. Called before the threads begin: they may not throw.
    void hold(int tokens, int dim) {
        const size_t padded = in_panels(tokens), dim_padded = in_panels(dim);
        grow(bytes_, padded * (dim + dim_padded + kTileRows));
        grow(floats_, padded * (2 + kTileRows) + kTileRows);
        grow(ints_, padded + dim_padded);
    }
    int8_t* bytes() { return aligned(bytes_); }
    float* floats() { return aligned(floats_); }
    int32_t* ints() { return aligned(ints_); }

   private:
    template <class T>
    static void grow(std::vector<T>& v, size_t count) {
        if (v.size() < count + 64 / sizeof(T)) v.resize(count + 64 / sizeof(T));
    }
    template <class T>
    static T* aligned(std::vector<T>& v) {
        return reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(v.data()) + 63) & ~uintptr_t{63});
    }

    std::vector<int8_t> bytes_;
    std::vector<float> floats_;
    std::vector<int32_t> ints_;
};

// 2^x for x in [-126, 16], relative error below 5e-6: a quartic of the fraction in [-1/2, 1/2].
inline F exp2(F x) {
    const F n = whole(x), f = sub(x, n);
    F p = fma(splat(9.6004e-3f), f, splat(5.591689e-2f));
    p = fma(p, f, splat(2.4023718e-1f));
    p = fma(p, f, splat(6.9312199e-1f));
    p = fma(p, f, splat(1.0f));
    return scale_by_power(p, n);
}

// Scores of one row -> u8 weights, 255 for the largest. Returns the sum of the weights.
inline int32_t softmax_row(const float* scores, int columns, uint8_t* weights) {
    F top = load(scores);
    for (int j = kLanes; j < columns; j += kLanes) top = max(top, load(scores + j));
    const F shift = splat(peak(top) - 7.9943534f);  // log2(255)
    I total = splat(0);
    for (int j = 0; j < columns; j += kLanes) {
        const I w = nearest(exp2(max(sub(load(scores + j), shift), splat(-100.0f))));
        store_u8(weights + j, w);
        total = add(total, w);
    }
    return sum(total);
}

// keys [tokens, stride] u8 -> panels of 32 keys [ceil(tokens/32)][D/4][32][4] s8, and start = -128 * sum of each key.
inline void pack_keys(const uint8_t* keys, int64_t stride, int tokens, int dim, int8_t* panels, int32_t* start) {
    const int padded = in_panels(tokens);
    for (int j = 0; j < padded; j++) {
        uint32_t* out = reinterpret_cast<uint32_t*>(panels) + (j / kPanel) * (dim / 4) * kPanel + j % kPanel;
        int32_t total = 0;
        for (int g = 0; g < dim / 4; g++) {
            uint32_t group = 0;
            if (j < tokens) {
                std::memcpy(&group, keys + j * stride + 4 * g, 4);
                group ^= 0x80808080u;
            }
            out[g * kPanel] = group;
        }
        if (j < tokens)
            for (int d = 0; d < dim; d++) total += keys[j * stride + d];
        start[j] = j < tokens ? -128 * (total - 128 * dim) : 0;
    }
}

// values [tokens, stride] u8 -> panels of 32 dims [ceil(D/32)][rows/4][32][4] s8; rows beyond tokens are zero.
inline void pack_values(const uint8_t* values, int64_t stride, int tokens, int dim, int rows, int8_t* panels) {
    alignas(64) uint8_t zero[kLanes];
    std::memset(zero, 128, sizeof zero);
    for (int d = 0; d < dim; d += kLanes) {
        int8_t* out = panels + (d / kPanel) * rows * kPanel + 4 * (d % kPanel);
        for (int j = 0; j < rows; j += 4, out += 4 * kPanel) {
            auto row = [&](int i) { return widen(j + i < tokens ? values + (j + i) * stride + d : zero); };
            const I low = either(row(0), shifted_left<8>(row(1)));
            const I high = either(shifted_left<16>(row(2)), shifted_left<24>(row(3)));
            store(reinterpret_cast<int32_t*>(out), exclusive(either(low, high), splat(static_cast<int32_t>(0x80808080u))));
        }
    }
}

// One head of one image: qkv [tokens, 3 * heads * D] -> out [tokens, heads * D], both u8. The scratch holds it.
inline void attention_head(const uint8_t* qkv, const Attention& spec, int tokens, int head, uint8_t* out,
                           AttentionScratch& scratch) {
    const int dim = spec.head_dim, width = spec.heads * dim;
    const int64_t stride = 3 * width;
    const int padded = in_panels(tokens);
    const int scored = (tokens + kLanes - 1) / kLanes * kLanes;  // columns of scores
    const int summed = (tokens + 3) / 4 * 4;                     // rows of values
    const int dim_padded = in_panels(dim);

    int8_t* keys = scratch.bytes();
    int8_t* values = keys + padded * dim;
    uint8_t* weights = reinterpret_cast<uint8_t*>(values + padded * dim_padded);
    float* scale = scratch.floats();
    float* mask = scale + padded;
    float* scores = mask + padded;
    float* row_scale = scores + padded * kTileRows;
    int32_t* key_start = scratch.ints();
    int32_t* value_start = key_start + padded;

    std::fill(scale, scale + padded, spec.score_scale[head]);
    std::fill(mask, mask + tokens, 0.0f);
    std::fill(mask + tokens, mask + padded, -1e30f);
    std::fill(value_start, value_start + dim_padded, 0);
    const uint8_t* q = qkv + head * dim;
    pack_keys(q + width, stride, tokens, dim, keys, key_start);
    pack_values(q + 2 * width, stride, tokens, dim, summed, values);

    const Weights by_keys{keys, key_start, scale, mask, dim, scored};
    const Weights by_values{values, value_start, nullptr, nullptr, summed, dim};
    const Output to_scores{Leave::kReal, scores, padded, nullptr, 0.0f, 0, nullptr};
    const int tiles = (tokens + kTileRows - 1) / kTileRows;
    for (int t = 0, m = 0, rows; t < tiles; t++, m += rows) {
        rows = (tokens - m) / (tiles - t);  // nearly equal heights
        for (int panel = 0; panel < padded / kPanel; panel++)
            gemm(q + m * stride, stride, by_keys, panel, panel, to_scores, 0, rows);
        for (int r = 0; r < rows; r++)
            row_scale[r] =
                spec.value_scale[head] / static_cast<float>(softmax_row(scores + r * padded, scored, weights + r * padded));
        const Output to_out{Leave::kRowScaledQuantized, out + static_cast<int64_t>(m) * width + head * dim, width, nullptr, 0.0f,
                            128, row_scale};
        for (int panel = 0; panel < dim_padded / kPanel; panel++)
            gemm(weights, padded, by_values, panel, panel, to_out, 0, rows);
    }
}

}  // namespace vitc
