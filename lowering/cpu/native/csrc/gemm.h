// u8 activations x s8 weights, added up in 32 bits, and what is done with the sums before they leave the registers.
//
//   sum[m, n] = sum_k (a[m, k] - zero) * w[k, n]           exact
//   y[m, n]   = sum[m, n] * scale[n] + bias[n]             FP32
//
// a is [M, K] with a row stride; w is packed at load into panels of 32 columns, [N/32][K/4][32][4], so that one step
// of four k reads two whole vectors. The zero point is paid once, at load: the sums start at -zero * sum_k w[k, n].
#pragma once

#include "activation.h"
#include "vec.h"

namespace vitc {

constexpr int kPanel = 2 * kLanes;
constexpr int kTileRows = 14;  // 14 x 2 sums, 2 vectors of weights and 1 of activations: 31 of the 32 registers

enum class Leave : int32_t {
    kReal = 0,                // y, FP32
    kAddTo = 1,               // y is added to what is there, FP32
    kQuantized = 2,           // round(y) + zero, u8: scale and bias are over the output's step already
    kActivatedQuantized = 3,  // round(activation(y) / step) + zero, u8
    kRowScaledQuantized = 4,  // round(sum * row_scale[m]) + zero, u8: what attention ends with
};

struct Weights {
    const int8_t* panels;
    const int32_t* start;  // -zero * sum_k w[k, n], padded to whole panels
    const float* scale;    // padded likewise, and bias too
    const float* bias;
    int32_t k, n;          // k a multiple of 4, n of 16
};

struct Output {
    Leave leave;
    void* data;            // float [M, stride] (kReal, kAddTo) or uint8_t [M, stride]
    int64_t stride;
    const Activation* activation;
    float inverse_step;      // kActivatedQuantized: 1 / step of the output
    int32_t zero;            // the u8 that stands for 0: 128, unless an activation's range is one-sided
    const float* row_scale;  // kRowScaledQuantized
};

template <Leave leave>
inline void leave_one(const Output& out, int64_t m, int n, F y) {
    if constexpr (leave == Leave::kReal) {
        store(static_cast<float*>(out.data) + m * out.stride + n, y);
    } else if constexpr (leave == Leave::kAddTo) {
        float* at = static_cast<float*>(out.data) + m * out.stride + n;
        store(at, add(load(at), y));
    } else {
        if constexpr (leave == Leave::kActivatedQuantized)
            y = mul(out.activation->apply(y), splat(out.inverse_step));
        store_u8(static_cast<uint8_t*>(out.data) + m * out.stride + n, add(nearest(y), splat(out.zero)));
    }
}

// Rows rows of one panel. Every step asks for a cache line from `ahead` on: the weights of a later panel, which would
// otherwise come from memory just when they are needed.
template <int Rows, Leave leave>
inline void gemm_tile(const uint8_t* a, int64_t a_stride, const Weights& w, int panel, const int8_t* ahead, const Output& out,
                      int64_t m) {
    const int8_t* b = w.panels + static_cast<int64_t>(panel) * w.k * kPanel;
    const int n = panel * kPanel;
    I sums[Rows][2];
#pragma GCC unroll 16
    for (int r = 0; r < Rows; r++) {
        sums[r][0] = load(w.start + n);
        sums[r][1] = load(w.start + n + kLanes);
    }
    for (int k = 0; k < w.k; k += 4, b += 4 * kPanel, ahead += 64) {
        prefetch(ahead);
        const I b0 = load_bytes(b), b1 = load_bytes(b + 4 * kLanes);
#pragma GCC unroll 16
        for (int r = 0; r < Rows; r++) {
            const I x = splat_group(a + r * a_stride + k);
            sums[r][0] = dot(sums[r][0], x, b0);
            sums[r][1] = dot(sums[r][1], x, b1);
        }
    }
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
        const int at = n + half * kLanes;
        if (at >= w.n) break;
        if constexpr (leave == Leave::kRowScaledQuantized) {
#pragma GCC unroll 16
            for (int r = 0; r < Rows; r++)
                leave_one<leave>(out, m + r, at, mul(real(sums[r][half]), splat(out.row_scale[m + r])));
        } else {
            const F scale = load(w.scale + at), bias = load(w.bias + at);
#pragma GCC unroll 16
            for (int r = 0; r < Rows; r++)
                leave_one<leave>(out, m + r, at, fma(real(sums[r][half]), scale, bias));
        }
    }
}

// Rows [first, last) of one panel, in tiles of nearly equal height.
template <Leave leave>
inline void gemm_rows(const uint8_t* a, int64_t a_stride, const Weights& w, int panel, int next, const Output& out,
                      int64_t first, int64_t last) {
    const int64_t panel_bytes = static_cast<int64_t>(w.k) * kPanel;
    const int64_t tiles = (last - first + kTileRows - 1) / kTileRows;
    for (int64_t t = 0, m = first; t < tiles; t++) {
        const int64_t rows = (last - m) / (tiles - t);
        const uint8_t* at = a + m * a_stride;
        // A tile asks for half a panel: the first tile the first half, all others the second.
        const int8_t* ahead = w.panels + next * panel_bytes + (t == 0 ? 0 : panel_bytes / 2);
        switch (rows) {
#define VITC_CASE(R) \
    case R: gemm_tile<R, leave>(at, a_stride, w, panel, ahead, out, m); break;
            VITC_CASE(1) VITC_CASE(2) VITC_CASE(3) VITC_CASE(4) VITC_CASE(5) VITC_CASE(6) VITC_CASE(7)
            VITC_CASE(8) VITC_CASE(9) VITC_CASE(10) VITC_CASE(11) VITC_CASE(12) VITC_CASE(13) VITC_CASE(14)
#undef VITC_CASE
        }
        m += rows;
    }
}

// Rows [first, last) of one panel; `next` is the panel to fetch meanwhile.
inline void gemm(const uint8_t* a, int64_t a_stride, const Weights& w, int panel, int next, const Output& out, int64_t first,
                 int64_t last) {
    switch (out.leave) {
        case Leave::kReal: return gemm_rows<Leave::kReal>(a, a_stride, w, panel, next, out, first, last);
        case Leave::kAddTo: return gemm_rows<Leave::kAddTo>(a, a_stride, w, panel, next, out, first, last);
        case Leave::kQuantized: return gemm_rows<Leave::kQuantized>(a, a_stride, w, panel, next, out, first, last);
        case Leave::kActivatedQuantized:
            return gemm_rows<Leave::kActivatedQuantized>(a, a_stride, w, panel, next, out, first, last);
        case Leave::kRowScaledQuantized:
            return gemm_rows<Leave::kRowScaledQuantized>(a, a_stride, w, panel, next, out, first, last);
    }
}

}  // namespace vitc
