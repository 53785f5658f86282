// One function for each instruction the kernel needs; fragment layouts are those of the PTX ISA, "Matrix fragments
// for mma". Nothing here decides anything.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

#define VITC_KERNEL(threads, blocks) __global__ void __launch_bounds__(threads, blocks)
#define VITC_PARAMETER __grid_constant__  // indexed where it lies: a copy would go through local memory
#define VITC_DEVICE __device__ __forceinline__
#define VITC_UNROLL _Pragma("unroll")
#define VITC_NO_UNROLL _Pragma("unroll 1")

namespace vitc {

#if defined(__CUDA_ARCH__)
constexpr int kArch = __CUDA_ARCH__;
#else
constexpr int kArch = 800;  // nvcc's host pass: looked at, never run
#endif

VITC_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
VITC_DEVICE int block_index() { return static_cast<int>(blockIdx.x); }
VITC_DEVICE void sync_block() { __syncthreads(); }
VITC_DEVICE void sync_warp() { __syncwarp(); }
VITC_DEVICE float shuffle_xor(float value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }
VITC_DEVICE bool any_lane(bool value) { return __any_sync(0xffffffffu, value) != 0; }
VITC_DEVICE int shuffle_xor(int value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }

// ---- shared memory ----

VITC_DEVICE uint32_t shared_base() {
    extern __shared__ __align__(256) unsigned char storage[];
    return static_cast<uint32_t>(__cvta_generic_to_shared(storage));
}

// They read memory, and so must not cross a barrier: hence the clobbers.
// Each of the four 8x8 matrices of 16-bit elements has its row addresses in 8 lanes: 0-7, 8-15, 16-23, 24-31.
VITC_DEVICE void load_matrix_x4(uint32_t (&r)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

VITC_DEVICE void load_matrix_x4_trans(uint32_t (&r)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

// Two matrices, rows in lanes 0-15; the other lanes' addresses must be valid and are not read.
VITC_DEVICE void load_matrix_x2(uint32_t (&r)[2], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(address)
                 : "memory");
}

VITC_DEVICE void store_shared(uint32_t address, uint4 v) {
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
                 : "memory");
}
VITC_DEVICE void store_shared(uint32_t address, uint2 v) {
    asm volatile("st.shared.v2.b32 [%0], {%1, %2};" ::"r"(address), "r"(v.x), "r"(v.y) : "memory");
}
VITC_DEVICE void store_shared(uint32_t address, uint32_t v) {
    asm volatile("st.shared.b32 [%0], %1;" ::"r"(address), "r"(v) : "memory");
}
VITC_DEVICE void store_shared(uint32_t address, uint16_t v) {
    asm volatile("st.shared.b16 [%0], %1;" ::"r"(address), "h"(v) : "memory");
}
VITC_DEVICE void load_shared(uint4& v, uint32_t address) {
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"(address)
                 : "memory");
}
VITC_DEVICE void load_shared(uint2& v, uint32_t address) {
    asm volatile("ld.shared.v2.b32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(address) : "memory");
}

// ---- global memory ----

template <typename T>
VITC_DEVICE T load_global(T const* source) {
    return __ldg(source);
}
VITC_DEVICE float load_global_half(void const* source, int64_t index) {
    return __half2float(__ldg(static_cast<__half const*>(source) + index));
}
template <typename T>
VITC_DEVICE void store_global(T* target, T value) {
    *target = value;
}

// Copies kBytes without going through registers; zeros are written where `valid` is false, and `source` is not read.
template <int kBytes>
VITC_DEVICE void copy_async(uint32_t target, void const* source, bool valid) {
    static_assert(kBytes == 8 || kBytes == 16, "cp.async moves 4, 8 or 16 bytes; rows of heads are multiples of 8");
    int const size = valid ? kBytes : 0;
    if constexpr (kBytes == 16) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(source), "r"(size) : "memory");
    } else {
        asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(target), "l"(source), "r"(size) : "memory");
    }
}
VITC_DEVICE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
VITC_DEVICE void copy_async_wait() { asm volatile("cp.async.wait_group 0;" ::: "memory"); }  // for what was committed

// ---- matrix products ----

VITC_DEVICE void mma_s8_m16n8k32(int (&d)[4], uint32_t const (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
VITC_DEVICE void mma_u8s8_m16n8k32(int (&d)[4], uint32_t const (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
VITC_DEVICE void mma_s8_m16n8k16(int (&d)[4], uint32_t a0, uint32_t a1, uint32_t b0) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                 : "r"(a0), "r"(a1), "r"(b0));
}
VITC_DEVICE void mma_s8_m8n8k16(int& d0, int& d1, uint32_t a0, uint32_t b0) {
    asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0,%1}, {%2}, {%3}, {%0,%1};"
                 : "+r"(d0), "+r"(d1)
                 : "r"(a0), "r"(b0));
}
VITC_DEVICE void mma_u8s8_m8n8k16(int& d0, int& d1, uint32_t a0, uint32_t b0) {
    asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.u8.s8.s32 {%0,%1}, {%2}, {%3}, {%0,%1};"
                 : "+r"(d0), "+r"(d1)
                 : "r"(a0), "r"(b0));
}
VITC_DEVICE void mma_f16_m16n8k16(float (&d)[4], uint32_t const (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
VITC_DEVICE void mma_f16_m16n8k8(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t b0) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a0), "r"(a1), "r"(b0));
}

// ---- scalars ----

// `value`, by way of a shuffle that ptxas can't see through (no block has 2^20 threads): it then stays in a register, where
// ptxas would rather make a constant anew before each use. `which`, below 8, keeps copies apart.
VITC_DEVICE int hidden_constant(int value, int which) {
    return shuffle_xor(value + (thread_index() >> (20 + which)), 0);
}
VITC_DEVICE uint32_t hidden_constant(uint32_t value, int which) {
    return static_cast<uint32_t>(hidden_constant(static_cast<int>(value), which));
}
VITC_DEVICE float hidden_constant(float value, int which) {
    return __int_as_float(hidden_constant(__float_as_int(value), which));
}

VITC_DEVICE float fused_multiply_add(float a, float b, float c) { return __fmaf_rn(a, b, c); }
VITC_DEVICE float fused_multiply_add_down(float a, float b, float c) { return __fmaf_rd(a, b, c); }
VITC_DEVICE float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
VITC_DEVICE float divide(float a, float b) { return __fdiv_rn(a, b); }
VITC_DEVICE float as_float(int bits) { return __int_as_float(bits); }
VITC_DEVICE uint32_t as_bits(float value) { return __float_as_uint(value); }
VITC_DEVICE int round_to_int(float x) { return __float2int_rn(x); }
VITC_DEVICE int minimum(int a, int b) { return min(a, b); }
VITC_DEVICE float minimum(float a, float b) { return fminf(a, b); }
VITC_DEVICE float maximum(float a, float b) { return fmaxf(a, b); }
VITC_DEVICE uint32_t permute_bytes(uint32_t x, uint32_t y, uint32_t selector) { return __byte_perm(x, y, selector); }

VITC_DEVICE uint32_t pack_half2(float low, float high) {
    __half2 const packed = __floats2half2_rn(low, high);
    return *reinterpret_cast<uint32_t const*>(&packed);
}
VITC_DEVICE uint32_t add_half2(uint32_t a, uint32_t b) {
    __half2 const sum = __hadd2(*reinterpret_cast<__half2 const*>(&a), *reinterpret_cast<__half2 const*>(&b));
    return *reinterpret_cast<uint32_t const*>(&sum);
}
VITC_DEVICE uint32_t subtract_half2(uint32_t a, uint32_t b) {
    __half2 const difference = __hsub2(*reinterpret_cast<__half2 const*>(&a), *reinterpret_cast<__half2 const*>(&b));
    return *reinterpret_cast<uint32_t const*>(&difference);
}

}  // namespace vitc
