// Sixteen lanes of FP32 or INT32, and the u8 x s8 dot product: the few vector operations the kernels are made of.
//
// With AVX512-VNNI each is one or two instructions. Elsewhere plain loops give the same results bit for bit (the
// dot product and all integer steps exactly, FP32 with the same roundings where the compiler fuses alike), so that
// the kernels can be tested on any processor.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512VNNI__)
#define VITC_VNNI 1
#include <immintrin.h>
#else
#define VITC_VNNI 0
#endif

namespace vitc {

constexpr int kLanes = 16;

#if VITC_VNNI

using F = __m512;
using I = __m512i;

inline F load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, F x) { _mm512_storeu_ps(p, x); }
inline I load(const int32_t* p) { return _mm512_loadu_si512(p); }
inline void store(int32_t* p, I x) { _mm512_storeu_si512(p, x); }
inline F splat(float x) { return _mm512_set1_ps(x); }
inline I splat(int32_t x) { return _mm512_set1_epi32(x); }
inline F add(F a, F b) { return _mm512_add_ps(a, b); }
inline F sub(F a, F b) { return _mm512_sub_ps(a, b); }
inline F mul(F a, F b) { return _mm512_mul_ps(a, b); }
inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
inline F max(F a, F b) { return _mm512_max_ps(a, b); }
inline F min(F a, F b) { return _mm512_min_ps(a, b); }
inline F abs(F a) { return _mm512_abs_ps(a); }
inline I add(I a, I b) { return _mm512_add_epi32(a, b); }
inline F real(I a) { return _mm512_cvtepi32_ps(a); }
inline I nearest(F a) { return _mm512_cvtps_epi32(a); }  // half to even
inline I truncated(F a) { return _mm512_cvttps_epi32(a); }
inline F whole(F a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline float sum(F a) { return _mm512_reduce_add_ps(a); }
inline int32_t sum(I a) { return _mm512_reduce_add_epi32(a); }
inline float peak(F a) { return _mm512_reduce_max_ps(a); }
inline F scale_by_power(F a, F n) { return _mm512_scalef_ps(a, n); }  // a * 2^n, n whole
// table[i], 16 entries
inline F pick(const float* table, I i) { return _mm512_permutexvar_ps(i, load(table)); }
// 64 bytes, as 16 groups of 4
inline I load_bytes(const void* p) { return _mm512_loadu_si512(p); }
inline I splat_group(const void* p) {
    int32_t x;
    std::memcpy(&x, p, 4);
    return _mm512_set1_epi32(x);
}
// 16 bytes, each in a lane of its own
inline I widen(const uint8_t* p) { return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
template <int bits>
inline I shifted_left(I a) { return _mm512_slli_epi32(a, bits); }
inline I either(I a, I b) { return _mm512_or_si512(a, b); }
inline I exclusive(I a, I b) { return _mm512_xor_si512(a, b); }
// acc[lane] + sum over the group of u8 * s8, in 32 bits
inline I dot(I acc, I u8, I s8) { return _mm512_dpbusd_epi32(acc, u8, s8); }
// each lane clamped to a byte
inline void store_u8(uint8_t* p, I x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtusepi32_epi8(_mm512_max_epi32(x, _mm512_setzero_si512())));
}
inline void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1); }  // into the second cache
inline void relax() { _mm_pause(); }
// Independent products on registers, which the compiler may not remove.
constexpr int kProducts = 12;
inline void products_only() {
#define VITC_DOT(sum) "vpdpbusd %%zmm30, %%zmm31, %%zmm" #sum "\n\t"
    __asm__ volatile(VITC_DOT(16) VITC_DOT(17) VITC_DOT(18) VITC_DOT(19) VITC_DOT(20) VITC_DOT(21) VITC_DOT(22) VITC_DOT(23)
                         VITC_DOT(24) VITC_DOT(25) VITC_DOT(26) VITC_DOT(27)::
                             : "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24", "xmm25", "xmm26",
                               "xmm27");
#undef VITC_DOT
}

#else

struct F { float v[kLanes]; };
struct I { int32_t v[kLanes]; };

template <class R, class Fn>
inline R each(Fn fn) {
    R r;
    for (int i = 0; i < kLanes; i++) r.v[i] = fn(i);
    return r;
}
inline F load(const float* p) { F r; std::memcpy(r.v, p, sizeof r.v); return r; }
inline void store(float* p, F x) { std::memcpy(p, x.v, sizeof x.v); }
inline I load(const int32_t* p) { I r; std::memcpy(r.v, p, sizeof r.v); return r; }
inline void store(int32_t* p, I x) { std::memcpy(p, x.v, sizeof x.v); }
inline F splat(float x) { return each<F>([&](int) { return x; }); }
inline I splat(int32_t x) { return each<I>([&](int) { return x; }); }
inline F add(F a, F b) { return each<F>([&](int i) { return a.v[i] + b.v[i]; }); }
inline F sub(F a, F b) { return each<F>([&](int i) { return a.v[i] - b.v[i]; }); }
inline F mul(F a, F b) { return each<F>([&](int i) { return a.v[i] * b.v[i]; }); }
inline F fma(F a, F b, F c) { return each<F>([&](int i) { return std::fma(a.v[i], b.v[i], c.v[i]); }); }
inline F max(F a, F b) { return each<F>([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; }); }
inline F min(F a, F b) { return each<F>([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; }); }
inline F abs(F a) { return each<F>([&](int i) { return std::fabs(a.v[i]); }); }
// Whole numbers wrap around, as the instructions do.
inline int32_t wrapped(int64_t x) { return static_cast<int32_t>(static_cast<uint32_t>(x)); }
inline I add(I a, I b) { return each<I>([&](int i) { return wrapped(int64_t{a.v[i]} + b.v[i]); }); }
inline F real(I a) { return each<F>([&](int i) { return static_cast<float>(a.v[i]); }); }
// What 32 bits can't hold, NaN too, is the least number, as the instructions have it.
inline int32_t as_integer(float x) { return x >= -2147483648.0f && x < 2147483648.0f ? static_cast<int32_t>(x) : INT32_MIN; }
inline I nearest(F a) { return each<I>([&](int i) { return as_integer(std::nearbyintf(a.v[i])); }); }
inline I truncated(F a) { return each<I>([&](int i) { return as_integer(a.v[i]); }); }
inline F whole(F a) { return each<F>([&](int i) { return std::nearbyintf(a.v[i]); }); }
inline int32_t sum(I a) {
    int32_t r = 0;
    for (int32_t x : a.v) r = wrapped(int64_t{r} + x);
    return r;
}
inline float sum(F a) {
    for (int width = kLanes / 2; width; width /= 2)
        for (int i = 0; i < width; i++) a.v[i] += a.v[i + width];
    return a.v[0];
}
inline float peak(F a) {
    float r = a.v[0];
    for (float x : a.v) r = x > r ? x : r;
    return r;
}
inline F scale_by_power(F a, F n) { return each<F>([&](int i) { return std::ldexp(a.v[i], as_integer(n.v[i])); }); }
inline F pick(const float* table, I i) { return each<F>([&](int k) { return table[i.v[k] & 15]; }); }
inline I load_bytes(const void* p) { I r; std::memcpy(r.v, p, sizeof r.v); return r; }
inline I splat_group(const void* p) { int32_t x; std::memcpy(&x, p, 4); return splat(x); }
inline I widen(const uint8_t* p) { return each<I>([&](int i) { return static_cast<int32_t>(p[i]); }); }
template <int bits>
inline I shifted_left(I a) { return each<I>([&](int i) { return static_cast<int32_t>(static_cast<uint32_t>(a.v[i]) << bits); }); }
inline I either(I a, I b) { return each<I>([&](int i) { return a.v[i] | b.v[i]; }); }
inline I exclusive(I a, I b) { return each<I>([&](int i) { return a.v[i] ^ b.v[i]; }); }
inline I dot(I acc, I u8, I s8) {
    uint8_t a[4 * kLanes];
    int8_t b[4 * kLanes];
    std::memcpy(a, u8.v, sizeof a);
    std::memcpy(b, s8.v, sizeof b);
    for (int i = 0; i < 4 * kLanes; i++) acc.v[i / 4] = wrapped(int64_t{acc.v[i / 4]} + a[i] * b[i]);
    return acc;
}
inline void store_u8(uint8_t* p, I x) {
    for (int i = 0; i < kLanes; i++) p[i] = static_cast<uint8_t>(x.v[i] < 0 ? 0 : x.v[i] > 255 ? 255 : x.v[i]);
}
inline void prefetch(const void*) {}
inline void relax() {}
constexpr int kProducts = 0;  // nothing to measure
inline void products_only() {}

#endif

}  // namespace vitc
