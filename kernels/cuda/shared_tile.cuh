// A tile of rows in shared memory: where a piece of a row lies, and how rows come in from global memory.
#pragma once

#include "mma.cuh"

namespace vitc {

constexpr int kChunk = 16;                 // ldmatrix reads rows of 16 bytes
constexpr int kChunksPerBankRow = 128 / kChunk;  // 32 banks of 4 bytes

constexpr int power_of_two_divisor(int value, int limit) {
    int divisor = 1;
    while (divisor < limit && value % (2 * divisor) == 0) {
        divisor *= 2;
    }
    return divisor;
}

// Rows of kRowBytes, their 16-byte chunks permuted so that the same chunk of 8 consecutive rows falls into 8 different
// bank groups: what ldmatrix asks for at once. Rows of an odd number of chunks (80 bytes) are free of conflicts as they
// are; otherwise rows that would meet in a bank group are told apart by flipping the chunk's low bits.
template <int kRowBytes>
struct SharedTile {
    static_assert(kRowBytes % kChunk == 0, "a row in shared memory is a whole number of 16-byte chunks");
    static constexpr int kBytes = kRowBytes;
    static constexpr int kChunks = kRowBytes / kChunk;
    static constexpr int kFlips = power_of_two_divisor(kChunks, kChunksPerBankRow);
    static constexpr int kRowsApart = kChunksPerBankRow / kFlips;

    static VITC_DEVICE uint32_t offset(int row, int chunk) {
        unsigned const row_bits = static_cast<unsigned>(row) / kRowsApart % kFlips;
        unsigned const flipped = static_cast<unsigned>(chunk) ^ row_bits;
        return static_cast<uint32_t>(row) * kRowBytes + flipped * kChunk;
    }

    // The permutation repeats after so many rows: offset(row + n * kPeriod, chunk) is n * kPeriod * kRowBytes further on.
    static constexpr int kPeriod = kFlips == 1 ? 1 : kRowsApart * kFlips;

    // The address of chunk `low + more` of a row of the tile that begins at `tile`, low being 0 or 1 and more even. In
    // tiles of rows of a power of two it differs by a bit pattern from that of chunk `low`, whose address is `start`.
    static VITC_DEVICE uint32_t beside(uint32_t start, uint32_t tile, int row, int low, int more) {
        if constexpr ((kRowBytes & (kRowBytes - 1)) == 0) {
            return start ^ static_cast<uint32_t>(more * kChunk);
        } else {
            return tile + offset(row, low + more);
        }
    }
};

// Zeros where `valid` is false: the bytes that pad a row to whole chunks meet the tensor core too.
template <int kBytes>
VITC_DEVICE void copy_piece(uint32_t target, char const* source, bool valid) {
    if constexpr (kHasAsyncCopy) {
        copy_async<kBytes>(target, source, valid);
    } else if constexpr (kBytes == 16) {
        store_shared(target, valid ? load_global(reinterpret_cast<uint4 const*>(source)) : uint4{0, 0, 0, 0});
    } else {
        store_shared(target, valid ? load_global(reinterpret_cast<uint2 const*>(source)) : uint2{0, 0});
    }
}

VITC_DEVICE void commit_loads() {
    if constexpr (kHasAsyncCopy) {
        copy_async_commit();
    }
}

// After this every thread sees every row that any thread has asked for so far.
VITC_DEVICE void wait_for_loads() {
    if constexpr (kHasAsyncCopy) {
        copy_async_wait();
    }
    sync_block();
}

}  // namespace vitc
