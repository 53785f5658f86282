// A CUDA block played on the CPU, so that the kernel's own source runs, and is watched, where there is no GPU.
//
// Every thread of a block is a fiber; all run on one CPU thread, each until it waits for others (a barrier, or an
// instruction of the whole warp), so a run is the same every time. What is watched:
//   - shared memory, byte by byte: reads of bytes nobody wrote, or that a copy still has under way; two threads that
//     touch a byte, one of them writing, with neither __syncthreads nor (in one warp) __syncwarp in between;
//   - asynchronous copies land as late as they may, at the wait, and only there become visible;
//   - every access's bounds and alignment, in shared memory and in the buffers that the caller declared;
//   - warps that part: a lane at another instruction than the rest, and threads that wait for ever;
//   - bank conflicts of ldmatrix, counted.
// The matrix instructions follow the fragment layouts of the PTX ISA, "Matrix fragments for mma".
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "half.h"

#ifndef VITC_HARNESS_ARCH
#define VITC_HARNESS_ARCH 870
#endif

#define VITC_KERNEL(threads, blocks) inline void
#define VITC_PARAMETER
#define VITC_DEVICE inline
#define VITC_UNROLL
#define VITC_NO_UNROLL

namespace vitc {

constexpr int kArch = VITC_HARNESS_ARCH;

struct uint2 {
    uint32_t x, y;
};
struct uint4 {
    uint32_t x, y, z, w;
};

namespace harness {

// A buffer that the kernel may touch.
struct Region {
    char const* begin;
    size_t size;
    bool writable;
};

// What one lane brings to an instruction of the whole warp, and takes away.
struct LaneArguments {
    uint32_t address;
    uint32_t in[8];
    uint32_t out[4];
};

struct Statistics {
    int64_t bank_conflicts;  // extra passes that ldmatrix needs beyond one for each 8 rows
};

// Runs `kernel` once for each of `blocks` blocks. False, and a sentence in `error`, at the first fault.
bool launch(std::function<void()> const& kernel, int blocks, int threads, size_t shared_bytes,
            std::vector<Region> const& regions, std::string& error, Statistics& statistics);

int current_thread();
int current_block();
void barrier_block();
void barrier_warp();

using WarpOperation = void (*)(LaneArguments* const (&lanes)[32]);
void together(WarpOperation operation, char const* name, LaneArguments& mine);

void shared_read(uint32_t address, void* target, uint32_t size);
void shared_write(uint32_t address, void const* source, uint32_t size);
void global_read(void const* address, void* target, size_t size);
void global_write(void* address, void const* source, size_t size);
void copy_start(uint32_t target, void const* source, uint32_t size, bool valid);
void copy_commit();
void copy_wait(int groups_left);

// The kernel's 32-bit shared addresses start here, so that a forgotten base is out of bounds.
constexpr uint32_t kSharedBase = 4096;

void op_shuffle_xor(LaneArguments* const (&lanes)[32]);
void op_any_lane(LaneArguments* const (&lanes)[32]);
void op_load_matrix_x4(LaneArguments* const (&lanes)[32]);
void op_load_matrix_x4_trans(LaneArguments* const (&lanes)[32]);
void op_load_matrix_x2(LaneArguments* const (&lanes)[32]);
void op_mma_s8_m16n8k32(LaneArguments* const (&lanes)[32]);
void op_mma_u8s8_m16n8k32(LaneArguments* const (&lanes)[32]);
void op_mma_s8_m16n8k16(LaneArguments* const (&lanes)[32]);
void op_mma_s8_m8n8k16(LaneArguments* const (&lanes)[32]);
void op_mma_u8s8_m8n8k16(LaneArguments* const (&lanes)[32]);
void op_mma_f16_m16n8k16(LaneArguments* const (&lanes)[32]);
void op_mma_f16_m16n8k8(LaneArguments* const (&lanes)[32]);

template <typename To, typename From>
To bit_cast(From const& from) {
    static_assert(sizeof(To) == sizeof(From), "a bit cast keeps the size");
    To to;
    std::memcpy(&to, &from, sizeof(To));
    return to;
}

// An mma with its sums in out[0..count), and A then B in in[].
template <typename Sum, int kSums>
void multiply(WarpOperation operation, char const* name, Sum* (&d)[kSums], std::initializer_list<uint32_t> ab) {
    LaneArguments lane{};
    int i = 0;
    for (uint32_t value : ab) {
        lane.in[i++] = value;
    }
    for (int j = 0; j < kSums; ++j) {
        lane.out[j] = bit_cast<uint32_t>(*d[j]);
    }
    together(operation, name, lane);
    for (int j = 0; j < kSums; ++j) {
        *d[j] = bit_cast<Sum>(lane.out[j]);
    }
}

template <typename Sum>
void multiply4(WarpOperation operation, char const* name, Sum (&d)[4], std::initializer_list<uint32_t> ab) {
    Sum* sums[4] = {&d[0], &d[1], &d[2], &d[3]};
    multiply<Sum, 4>(operation, name, sums, ab);
}

inline void multiply2(WarpOperation operation, char const* name, int& d0, int& d1, uint32_t a, uint32_t b) {
    int* sums[2] = {&d0, &d1};
    multiply<int, 2>(operation, name, sums, {a, b});
}

}  // namespace harness

inline int thread_index() { return harness::current_thread(); }
inline int block_index() { return harness::current_block(); }
inline void sync_block() { harness::barrier_block(); }
inline void sync_warp() { harness::barrier_warp(); }

template <typename T>
T shuffle_xor(T value, int mask) {
    harness::LaneArguments lane{};
    lane.address = static_cast<uint32_t>(mask);
    lane.in[0] = harness::bit_cast<uint32_t>(value);
    harness::together(harness::op_shuffle_xor, "shfl.xor", lane);
    return harness::bit_cast<T>(lane.out[0]);
}

inline bool any_lane(bool value) {
    harness::LaneArguments lane{};
    lane.in[0] = value ? 1 : 0;
    harness::together(harness::op_any_lane, "vote.any", lane);
    return lane.out[0] != 0;
}

inline uint32_t shared_base() { return harness::kSharedBase; }

inline void load_matrix(harness::WarpOperation operation, char const* name, uint32_t* r, int count, uint32_t address) {
    harness::LaneArguments lane{};
    lane.address = address;
    harness::together(operation, name, lane);
    std::memcpy(r, lane.out, sizeof(uint32_t) * static_cast<size_t>(count));
}
inline void load_matrix_x4(uint32_t (&r)[4], uint32_t address) {
    load_matrix(harness::op_load_matrix_x4, "ldmatrix.x4", r, 4, address);
}
inline void load_matrix_x4_trans(uint32_t (&r)[4], uint32_t address) {
    load_matrix(harness::op_load_matrix_x4_trans, "ldmatrix.x4.trans", r, 4, address);
}
inline void load_matrix_x2(uint32_t (&r)[2], uint32_t address) {
    load_matrix(harness::op_load_matrix_x2, "ldmatrix.x2", r, 2, address);
}

template <typename T>
void store_shared(uint32_t address, T value) {
    harness::shared_write(address, &value, sizeof(T));
}
template <typename T>
void load_shared(T& value, uint32_t address) {
    harness::shared_read(address, &value, sizeof(T));
}

template <typename T>
T load_global(T const* source) {
    T value;
    harness::global_read(source, &value, sizeof(T));
    return value;
}
inline float load_global_half(void const* source, int64_t index) {
    return half_to_float(load_global(static_cast<uint16_t const*>(source) + index));
}
template <typename T>
void store_global(T* target, T value) {
    harness::global_write(target, &value, sizeof(T));
}

template <int kBytes>
void copy_async(uint32_t target, void const* source, bool valid) {
    static_assert(kBytes == 8 || kBytes == 16, "cp.async moves 4, 8 or 16 bytes; rows of heads are multiples of 8");
    harness::copy_start(target, source, kBytes, valid);
}
inline void copy_async_commit() { harness::copy_commit(); }
inline void copy_async_wait() { harness::copy_wait(0); }

inline void mma_s8_m16n8k32(int (&d)[4], uint32_t const (&a)[4], uint32_t b0, uint32_t b1) {
    harness::multiply4(harness::op_mma_s8_m16n8k32, "mma.m16n8k32.s8.s8", d, {a[0], a[1], a[2], a[3], b0, b1});
}
inline void mma_u8s8_m16n8k32(int (&d)[4], uint32_t const (&a)[4], uint32_t b0, uint32_t b1) {
    harness::multiply4(harness::op_mma_u8s8_m16n8k32, "mma.m16n8k32.u8.s8", d, {a[0], a[1], a[2], a[3], b0, b1});
}
inline void mma_s8_m16n8k16(int (&d)[4], uint32_t a0, uint32_t a1, uint32_t b0) {
    harness::multiply4(harness::op_mma_s8_m16n8k16, "mma.m16n8k16.s8.s8", d, {a0, a1, b0});
}
inline void mma_s8_m8n8k16(int& d0, int& d1, uint32_t a0, uint32_t b0) {
    harness::multiply2(harness::op_mma_s8_m8n8k16, "mma.m8n8k16.s8.s8", d0, d1, a0, b0);
}
inline void mma_u8s8_m8n8k16(int& d0, int& d1, uint32_t a0, uint32_t b0) {
    harness::multiply2(harness::op_mma_u8s8_m8n8k16, "mma.m8n8k16.u8.s8", d0, d1, a0, b0);
}
inline void mma_f16_m16n8k16(float (&d)[4], uint32_t const (&a)[4], uint32_t b0, uint32_t b1) {
    harness::multiply4(harness::op_mma_f16_m16n8k16, "mma.m16n8k16.f16", d, {a[0], a[1], a[2], a[3], b0, b1});
}
inline void mma_f16_m16n8k8(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t b0) {
    harness::multiply4(harness::op_mma_f16_m16n8k8, "mma.m16n8k8.f16", d, {a0, a1, b0});
}

template <typename T>
T hidden_constant(T value, int) {
    return value;
}
inline float fused_multiply_add(float a, float b, float c) { return std::fma(a, b, c); }
// Towards minus infinity. The product of two FP32 numbers is exact in FP64; the sum's error (Knuth, "TAOCP" 4.2.2) says
// on which side of its own rounding the true value lies.
inline float fused_multiply_add_down(float a, float b, float c) {
    double const product = static_cast<double>(a) * b;
    double const sum = product + c;
    double const virtual_c = sum - product;
    double const error = (product - (sum - virtual_c)) + (c - virtual_c);
    float const rounded = static_cast<float>(sum);
    bool const above = static_cast<double>(rounded) > sum || (static_cast<double>(rounded) == sum && error < 0.0);
    return above ? std::nextafter(rounded, -INFINITY) : rounded;
}
// Correctly rounded, where the GPU's is within 2^-22; subnormal results are flushed to zero as there.
inline float exp2_approx(float x) {
    double const y = std::exp2(static_cast<double>(x));
    return y < 0x1p-126 ? 0.0f : static_cast<float>(y);
}
inline float divide(float a, float b) { return a / b; }
inline float as_float(int bits) { return harness::bit_cast<float>(bits); }
inline uint32_t as_bits(float value) { return harness::bit_cast<uint32_t>(value); }
inline int round_to_int(float x) { return static_cast<int>(std::nearbyint(x)); }
inline int minimum(int a, int b) { return a < b ? a : b; }
inline float minimum(float a, float b) { return std::fmin(a, b); }
inline float maximum(float a, float b) { return std::fmax(a, b); }

inline uint32_t permute_bytes(uint32_t x, uint32_t y, uint32_t selector) {
    uint64_t const bytes = static_cast<uint64_t>(y) << 32 | x;
    uint32_t result = 0;
    for (int i = 0; i < 4; ++i) {
        uint32_t const which = selector >> (4 * i) & 7u;
        result |= static_cast<uint32_t>(bytes >> (8 * which) & 0xffu) << (8 * i);
    }
    return result;
}

inline uint32_t pack_half2(float low, float high) {
    return static_cast<uint32_t>(float_to_half(high)) << 16 | float_to_half(low);
}
inline uint32_t add_half2(uint32_t a, uint32_t b) {
    auto const lane = [&](int shift) {
        return half_to_float(static_cast<uint16_t>(a >> shift)) + half_to_float(static_cast<uint16_t>(b >> shift));
    };
    return pack_half2(lane(0), lane(16));
}
inline uint32_t subtract_half2(uint32_t a, uint32_t b) {
    auto const lane = [&](int shift) {
        return half_to_float(static_cast<uint16_t>(a >> shift)) - half_to_float(static_cast<uint16_t>(b >> shift));
    };
    return pack_half2(lane(0), lane(16));
}

}  // namespace vitc
