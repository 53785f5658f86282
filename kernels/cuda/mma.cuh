// Tiles of 16 x 8, whatever the tensor core's own instruction is: sm_80 and later multiply 32 bytes of K at once,
// sm_75 16 bytes. The fragments have the same layout, so the callers see no difference.
#pragma once

#include "primitives.cuh"

namespace vitc {

constexpr bool kWideMma = kArch >= 800;
constexpr bool kHasAsyncCopy = kArch >= 800;

// INT8 Q.K: 16 x 8 x 32 bytes.
VITC_DEVICE void multiply_qk(int (&d)[4], uint32_t const (&a)[4], uint32_t b0, uint32_t b1) {
    if constexpr (kWideMma) {
        mma_s8_m16n8k32(d, a, b0, b1);
    } else {
        mma_s8_m8n8k16(d[0], d[1], a[0], b0);
        mma_s8_m8n8k16(d[0], d[1], a[2], b1);
        mma_s8_m8n8k16(d[2], d[3], a[1], b0);
        mma_s8_m8n8k16(d[2], d[3], a[3], b1);
    }
}

// INT8 Q.K: the last 16 bytes of a head dimension that is an odd multiple of 16.
VITC_DEVICE void multiply_qk_half(int (&d)[4], uint32_t a0, uint32_t a1, uint32_t b0) {
    if constexpr (kWideMma) {
        mma_s8_m16n8k16(d, a0, a1, b0);
    } else {
        mma_s8_m8n8k16(d[0], d[1], a0, b0);
        mma_s8_m8n8k16(d[2], d[3], a1, b0);
    }
}

// P (unsigned) . V (signed): 16 x 8 x 32 keys.
VITC_DEVICE void multiply_pv(int (&d)[4], uint32_t const (&a)[4], uint32_t b0, uint32_t b1) {
    if constexpr (kWideMma) {
        mma_u8s8_m16n8k32(d, a, b0, b1);
    } else {
        mma_u8s8_m8n8k16(d[0], d[1], a[0], b0);
        mma_u8s8_m8n8k16(d[0], d[1], a[2], b1);
        mma_u8s8_m8n8k16(d[2], d[3], a[1], b0);
        mma_u8s8_m8n8k16(d[2], d[3], a[3], b1);
    }
}

// FP16 with FP32 sums: 16 x 8 x 32 bytes (Q.K) or 16 keys (P.V).
VITC_DEVICE void multiply_half(float (&d)[4], uint32_t const (&a)[4], uint32_t b0, uint32_t b1) {
    if constexpr (kWideMma) {
        mma_f16_m16n8k16(d, a, b0, b1);
    } else {
        mma_f16_m16n8k8(d, a[0], a[1], b0);
        mma_f16_m16n8k8(d, a[2], a[3], b1);
    }
}

VITC_DEVICE void multiply_qk(float (&d)[4], uint32_t const (&a)[4], uint32_t b0, uint32_t b1) {
    multiply_half(d, a, b0, b1);
}

}  // namespace vitc
