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
    static constexpr int kChunks = kRowBytes / kChunk;
    static constexpr int kFlips = power_of_two_divisor(kChunks, kChunksPerBankRow);
    static constexpr int kRowsApart = kChunksPerBankRow / kFlips;

    static VITC_DEVICE uint32_t offset(int row, int chunk) {
        unsigned const row_bits = static_cast<unsigned>(row) / kRowsApart % kFlips;
        unsigned const flipped = static_cast<unsigned>(chunk) ^ row_bits;
        return static_cast<uint32_t>(row) * kRowBytes + flipped * kChunk;
    }
};

// Starts bringing rows [first, first + kRows) of a head into shared memory. Rows from `limit` on, and the bytes that
// pad a row to whole chunks, become zeros: nothing undefined ever meets the tensor core.
template <int kRows, int kRowBytes, int kValidBytes, int kThreads>
VITC_DEVICE void load_rows(uint32_t tile, char const* head, int row_stride_bytes, int first, int limit) {
    constexpr int kPiece = kValidBytes % 16 == 0 ? 16 : 8;
    static_assert(kValidBytes % kPiece == 0, "a head's row must be a multiple of 8 bytes, or its pieces are misaligned");
    constexpr int kPieces = kRowBytes / kPiece;
    constexpr int kTotal = kRows * kPieces;
    VITC_UNROLL
    for (int round = 0; round < (kTotal + kThreads - 1) / kThreads; ++round) {
        int const i = round * kThreads + thread_index();
        if (kTotal % kThreads != 0 && i >= kTotal) {
            break;
        }
        int const row = i / kPieces;
        int const byte = i % kPieces * kPiece;
        bool const valid = first + row < limit && byte < kValidBytes;
        char const* const source = head + static_cast<int64_t>(first + row) * row_stride_bytes + byte;
        uint32_t const target = tile + SharedTile<kRowBytes>::offset(row, byte / kChunk) + byte % kChunk;
        if constexpr (kHasAsyncCopy) {
            copy_async<kPiece>(target, source, valid);
        } else if constexpr (kPiece == 16) {
            store_shared(target, valid ? load_global(reinterpret_cast<uint4 const*>(source)) : uint4{0, 0, 0, 0});
        } else {
            store_shared(target, valid ? load_global(reinterpret_cast<uint2 const*>(source)) : uint2{0, 0});
        }
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
        copy_async_wait_all();
    }
    sync_block();
}

}  // namespace vitc
