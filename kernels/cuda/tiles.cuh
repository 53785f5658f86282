// Q, K and V on their way into shared memory, tile after tile.
#pragma once

#include "shared_tile.cuh"

namespace vitc {

// The pieces of a tile that one thread brings, one in each round. An item, kRowsOfItem neighbouring rows, belongs to
// kPieces neighbouring threads, and a round to as many items as there are threads for, in whole periods of Layout where
// these are enough: so all rounds have the same bytes of their rows and lie at equal distances, in global and in shared
// memory. The last threads may have none.
template <typename Layout, int kTileRows, int kRowsOfItem, int kRowBytes, int kValidBytes, int kThreads>
struct TileWalk {
    static constexpr int kPiece = kValidBytes % 16 == 0 ? 16 : 8;
    static_assert(kValidBytes % kPiece == 0, "a head's row must be a multiple of 8 bytes, or its pieces are misaligned");
    static constexpr int kPieces = kRowBytes / kPiece;
    static constexpr int kItems = kTileRows / kRowsOfItem;
    static constexpr bool kPeriodic = kThreads / kPieces >= Layout::kPeriod;
    static constexpr int kUnit = kPeriodic ? Layout::kPeriod : 1;
    static constexpr int kItemsOfRound = smaller(kThreads / kPieces / kUnit * kUnit, kItems);
    static constexpr int kRounds = (kItems + kItemsOfRound - 1) / kItemsOfRound;

    char const* here;  // the first round's piece of the tile that comes next
    int const row_stride;

    VITC_DEVICE TileWalk(char const* head, int row_stride_bytes)
        : here(head + static_cast<int64_t>(item() * kRowsOfItem) * row_stride_bytes + byte()),
          row_stride(row_stride_bytes) {}

    static VITC_DEVICE int item() { return thread_index() / kPieces; }
    static VITC_DEVICE int byte() { return thread_index() % kPieces * kPiece; }
    static VITC_DEVICE bool has(int round) {
        bool const in_round = kItemsOfRound * kPieces == kThreads || item() < kItemsOfRound;
        return round < kRounds && in_round && (kItems % kItemsOfRound == 0 || round * kItemsOfRound + item() < kItems);
    }
    static VITC_DEVICE bool in_row() { return kValidBytes == kRowBytes || byte() < kValidBytes; }

    // Where the piece's first chunk lies in a tile; of a row of the tensor, a chunk there holds kBytesOfChunk.
    template <int kBytesOfChunk>
    static VITC_DEVICE uint32_t target(int round) {
        int const items = round * kItemsOfRound;
        if constexpr (kPeriodic) {
            return Layout::offset(item(), byte() / kBytesOfChunk) + static_cast<uint32_t>(items * Layout::kBytes);
        } else {
            return Layout::offset(item() + items, byte() / kBytesOfChunk);
        }
    }

    // Rows from `limit` on are the last one again.
    template <bool kWhole>
    VITC_DEVICE char const* address(int round, int which, int first, int limit) const {
        int rows = round * kItemsOfRound * kRowsOfItem + which;
        if constexpr (!kWhole) {
            rows = minimum(rows, limit - 1 - first - item() * kRowsOfItem);
        }
        return here + static_cast<int64_t>(rows) * row_stride;
    }

    VITC_DEVICE void next() { here += static_cast<int64_t>(kTileRows) * row_stride; }
};

// Rows as they are. Those beyond the last are copies of it: as queries nobody looks at them, as keys they are masked.
template <int kTileRows, int kRowBytes, int kValidBytes, int kThreads>
struct RowTiles {
    using Rows = SharedTile<kRowBytes>;
    using Walk = TileWalk<Rows, kTileRows, 1, kRowBytes, kValidBytes, kThreads>;

    Walk walk;

    VITC_DEVICE RowTiles(char const* head, int row_stride_bytes) : walk(head, row_stride_bytes) {}

    template <bool kWhole>
    VITC_DEVICE void fetch(uint32_t tile, int first, int limit) {
        VITC_UNROLL
        for (int round = 0; round < Walk::kRounds; ++round) {
            if (Walk::has(round)) {
                uint32_t const target = tile + Walk::template target<kChunk>(round) + Walk::byte() % kChunk;
                copy_piece<Walk::kPiece>(target, walk.template address<kWhole>(round, 0, first, limit), Walk::in_row());
            }
        }
        walk.next();
    }
};

// V in shared memory, two keys to a row: bytes 2d and 2d + 1 of row r are dim d of keys 2r and 2r + 1. Read as 16-bit
// elements it is what ldmatrix.trans turns into four keys of one dim: the right operand of an INT8 product. cp.async
// can't interleave bytes, so V comes through registers: `fetch` asks for a tile, `store` puts it where it belongs once
// the warp has done other work. A block permutes a tile's bytes once; from rows as they are every warp would have to.
// Keys beyond the last are copies of it: their P is zero.
template <int kKeyRows, int kRowBytes, int kValidBytes, int kThreads>
struct ValuePairs {
    using Rows = SharedTile<2 * kRowBytes>;
    using Walk = TileWalk<Rows, kKeyRows, 2, kRowBytes, kValidBytes, kThreads>;
    static constexpr int kWords = Walk::kPiece / 4;
    static constexpr int kParts = Walk::kRounds > 1 ? 2 : 1;  // fetched and stored one after the other
    static constexpr int kRoundsOfPart = (Walk::kRounds + kParts - 1) / kParts;
    using Piece = uint32_t[kWords];

    Walk walk;
    Piece words[kRoundsOfPart][2];

    VITC_DEVICE ValuePairs(char const* head, int row_stride_bytes) : walk(head, row_stride_bytes) {}

    template <bool kWhole, int kPart>
    VITC_DEVICE void fetch(int first, int limit) {
        VITC_UNROLL
        for (int i = 0; i < kRoundsOfPart; ++i) {
            int const round = kPart * kRoundsOfPart + i;
            VITC_UNROLL
            for (int which = 0; which < 2; ++which) {
                if (Walk::has(round) && Walk::in_row()) {
                    load_words(words[i][which], walk.template address<kWhole>(round, which, first, limit));
                } else {
                    clear(words[i][which]);
                }
            }
        }
        if constexpr (kPart == kParts - 1) {
            walk.next();
        }
    }

    template <int kPart>
    VITC_DEVICE void store(uint32_t tile) const {
        VITC_UNROLL
        for (int i = 0; i < kRoundsOfPart; ++i) {
            int const round = kPart * kRoundsOfPart + i;
            if (Walk::has(round)) {
                uint32_t const target = tile + Walk::template target<kChunk / 2>(round);
                VITC_UNROLL
                for (int chunk = 0; chunk < kWords / 2; ++chunk) {
                    uint32_t const* const even = words[i][0] + 2 * chunk;
                    uint32_t const* const odd = words[i][1] + 2 * chunk;
                    store_shared(target ^ static_cast<uint32_t>(chunk * kChunk),
                                 uint4{permute_bytes(even[0], odd[0], 0x5140), permute_bytes(even[0], odd[0], 0x7362),
                                       permute_bytes(even[1], odd[1], 0x5140), permute_bytes(even[1], odd[1], 0x7362)});
                }
            }
        }
    }

    // Where a lane reads the right operands of 32 keys and 16 dims: those of dims 0-7 are in b[0], b[1], of dims 8-15 in
    // b[2], b[3]. P's bytes hold keys 2c, 2c + 1, 2c + 8 and 2c + 9 of each 16 (c = lane % 4): the rows are in that order.
    static VITC_DEVICE int lane_row(int lane) { return lane / 8 % 2 * 8 + lane % 2 * 4 + lane % 8 / 2; }
    static VITC_DEVICE uint32_t lane_offset(int lane) { return Rows::offset(lane_row(lane), lane / 16); }
    static VITC_DEVICE void operands(uint32_t (&b)[4], uint32_t start, uint32_t tile, int keys, int group, int lane) {
        load_matrix_x4_trans(b, Rows::beside(start, tile, lane_row(lane), lane / 16, 2 * group) + 16 * keys * Rows::kBytes);
    }

private:
    static VITC_DEVICE void load_words(uint32_t (&target)[4], char const* source) {
        uint4 const piece = load_global(reinterpret_cast<uint4 const*>(source));
        target[0] = piece.x;
        target[1] = piece.y;
        target[2] = piece.z;
        target[3] = piece.w;
    }
    static VITC_DEVICE void load_words(uint32_t (&target)[2], char const* source) {
        uint2 const piece = load_global(reinterpret_cast<uint2 const*>(source));
        target[0] = piece.x;
        target[1] = piece.y;
    }
    static VITC_DEVICE void clear(Piece& target) {
        VITC_UNROLL
        for (int word = 0; word < kWords; ++word) {
            target[word] = 0;
        }
    }
};

}  // namespace vitc
