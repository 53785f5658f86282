// Fused attention for Vision Transformers: INT8 or FP16 in, INT8 or FP16 out, softmax in FP32 registers.
//
// A block holds kQueryRows query rows of one head and walks over the keys in tiles of kKeyRows (FlashAttention-2,
// arXiv 2307.08691). While a tile is multiplied the next one is on its way. Scores and P never leave the registers:
// the layout in which Q.K leaves its sums is, up to an order of keys, the one in which P.V wants its left operand.
// reference.py is the same arithmetic in NumPy, docs/kernel.md the reasons.
#pragma once

#include "config.h"
#include "params.h"
#include "shared_tile.cuh"

namespace vitc {

// An FP32 number in [2^23, 2^24) is its own mantissa: adding 1.5 * 2^23 turns integers below 2^22 into floats and back
// without a conversion instruction (a quarter of the rate on most targets), and rounds half to even on the way back.
constexpr int kMagicBits = 0x4B400000;
constexpr float kMagic = 12582912.0f;

constexpr float kLog2ProbabilityMax = 7.99435343685886f;  // log2(255): P's largest integer
constexpr float kLog2EFloat = 1.44269504f;
constexpr float kNegativeInfinity = -__builtin_huge_valf();

// Integer sums start at kMagicBits and so end as floats; FP16 sums start at zero.
template <Element kInput>
struct Sums;
template <>
struct Sums<Element::kInt8> {
    using Type = int;
    static constexpr int kStart = kMagicBits;
    static VITC_DEVICE float score(int sum) { return as_float(sum); }  // kMagic + q.k
};
template <>
struct Sums<Element::kHalf> {
    using Type = float;
    static constexpr float kStart = 0.0f;
    static VITC_DEVICE float score(float sum) { return sum; }
};

template <typename Config>
struct AttentionBlock {
    static constexpr Element kInput = Config::kInput;
    static constexpr bool kIntegerScores = kInput == Element::kInt8;
    static constexpr bool kIntegerPv = Config::kProbability == Element::kInt8;
    static constexpr bool kHasBias = Config::kHasBias;
    static constexpr int kWarpTiles = Config::kWarpTiles;
    static constexpr int kDimGroups = Config::kDimGroups;
    static constexpr int kKeyTiles = Config::kKeyRows / 8;  // an mma makes 8 columns of scores
    static constexpr int kTailTiles = 4;                    // a last tile of few keys: what one INT8 product takes
    static constexpr int kChunks = Config::kRowBytes / kChunk;
    static constexpr int kSteps = kChunks / 2;              // an mma takes two chunks of q and k
    static constexpr bool kHalfStep = kChunks % 2 == 1;     // and one INT8 mma takes a single last one
    using Rows = SharedTile<Config::kRowBytes>;
    using OutRows = SharedTile<Config::kOutRowBytes>;
    using Sum = typename Sums<kInput>::Type;

    static_assert(!kHalfStep || kIntegerScores, "FP16 rows are padded to whole steps of 32 bytes");

    // Each thread holds, of every group of 16 query rows, two rows (lane / 4 and that + 8), and of every 8 columns two
    // (2 * (lane % 4) and the next): element e of an accumulator is row e / 2, column e % 2.
    struct RowState {
        float peak[kWarpTiles][2];
        float total[kWarpTiles][2];  // of the thread's own columns; summed over the four threads of a row at the end
    };

    AttentionParams const& p;
    int const lane;
    int const warp_row;
    uint32_t const shared;
    uint32_t q_fragments[kWarpTiles][kSteps + (kHalfStep ? 1 : 0)][4];
    float scores[kWarpTiles][kKeyTiles][4];
    float weighted[kWarpTiles][kDimGroups][2][4];
    RowState state;
    int magic[4];        // kMagicBits four times: what an INT8 product of P.V starts from
    int scale_head = 0;  // whose scales are ours: this head's, or 0 where all heads share them

    explicit VITC_DEVICE AttentionBlock(AttentionParams const& params)
        : p(params),
          lane(thread_index() % 32),
          warp_row(thread_index() / 32 * (16 * kWarpTiles)),
          shared(shared_base()) {}

    VITC_DEVICE uint32_t keys_at(int stage) const {
        return shared + Config::kQueryBytes + static_cast<uint32_t>(stage) * Config::kStageBytes;
    }
    VITC_DEVICE uint32_t values_at(int stage) const { return keys_at(stage) + Config::kKeyBytes; }

    VITC_DEVICE void reset() {
        VITC_UNROLL
        for (int i = 0; i < 4; ++i) {
            magic[i] = hidden_constant(kMagicBits, i);
        }
        VITC_UNROLL
        for (int t = 0; t < kWarpTiles; ++t) {
            VITC_UNROLL
            for (int half = 0; half < 2; ++half) {
                state.peak[t][half] = kNegativeInfinity;
                state.total[t][half] = 0.0f;
            }
            VITC_UNROLL
            for (int i = 0; i < kDimGroups * 8; ++i) {
                weighted[t][i / 8][i / 4 % 2][i % 4] = 0.0f;
            }
        }
    }

    VITC_DEVICE void load_q_fragments() {
        int const row = lane % 16;
        VITC_UNROLL
        for (int t = 0; t < kWarpTiles; ++t) {
            VITC_UNROLL
            for (int step = 0; step < kSteps; ++step) {
                int const chunk = 2 * step + lane / 16;
                load_matrix_x4(q_fragments[t][step], shared + Rows::offset(warp_row + 16 * t + row, chunk));
            }
            if constexpr (kHalfStep) {
                uint32_t last[2];
                load_matrix_x2(last, shared + Rows::offset(warp_row + 16 * t + row, kChunks - 1));
                q_fragments[t][kSteps][0] = last[0];
                q_fragments[t][kSteps][1] = last[1];
            }
        }
    }

    // scores = q.k of this warp's rows and the tile's keys: integers as kMagic + q.k, or FP32.
    template <int kTiles>
    VITC_DEVICE void multiply_queries_by_keys(uint32_t keys) {
        int const key = lane % 8 + lane / 16 * 8;
        int const side = lane / 8 % 2;
        VITC_UNROLL
        for (int pair = 0; pair < kTiles / 2; ++pair) {
            Sum sums[kWarpTiles][2][4];
            VITC_UNROLL
            for (int i = 0; i < kWarpTiles * 8; ++i) {
                sums[i / 8][i / 4 % 2][i % 4] = Sums<kInput>::kStart;
            }
            VITC_UNROLL
            for (int step = 0; step < kSteps; ++step) {
                uint32_t b[4];
                load_matrix_x4(b, keys + Rows::offset(16 * pair + key, 2 * step + side));
                VITC_UNROLL
                for (int t = 0; t < kWarpTiles; ++t) {
                    multiply_qk(sums[t][0], q_fragments[t][step], b[0], b[1]);
                    multiply_qk(sums[t][1], q_fragments[t][step], b[2], b[3]);
                }
            }
            if constexpr (kHalfStep) {
                uint32_t b[2];
                load_matrix_x2(b, keys + Rows::offset(16 * pair + lane % 16, kChunks - 1));
                VITC_UNROLL
                for (int t = 0; t < kWarpTiles; ++t) {
                    multiply_qk_half(sums[t][0], q_fragments[t][kSteps][0], q_fragments[t][kSteps][1], b[0]);
                    multiply_qk_half(sums[t][1], q_fragments[t][kSteps][0], q_fragments[t][kSteps][1], b[1]);
                }
            }
            VITC_UNROLL
            for (int i = 0; i < kWarpTiles * 8; ++i) {
                scores[i / 8][2 * pair + i / 4 % 2][i % 4] = Sums<kInput>::score(sums[i / 8][i / 4 % 2][i % 4]);
            }
        }
    }

    // With a bias the scores become exponents of 2, so that it can be added; without one they stay as they are.
    template <int kTiles>
    VITC_DEVICE void add_bias(int first_query, int first_key, int64_t head_offset) {
        VITC_UNROLL
        for (int t = 0; t < kWarpTiles; ++t) {
            VITC_UNROLL
            for (int i = 0; i < kTiles * 4; ++i) {
                int const row = first_query + warp_row + 16 * t + lane / 4 + i / 2 % 2 * 8;
                int const key = first_key + i / 4 * 8 + lane % 4 * 2 + i % 2;
                float bias = 0.0f;
                if (row < p.queries && key < p.keys) {
                    int64_t const index = head_offset + static_cast<int64_t>(row) * p.keys + key;
                    bias = p.bias_is_half ? load_global_half(p.bias, index)
                                          : load_global(static_cast<float const*>(p.bias) + index);
                }
                float& score = scores[t][i / 4][i % 4];
                float const dot = kIntegerScores ? score - kMagic : score;
                score = fused_multiply_add(dot, p.logit_factors[scale_head], bias * kLog2EFloat);
            }
        }
    }

    template <int kTiles>
    VITC_DEVICE void mask_keys_from(int limit) {
        VITC_UNROLL
        for (int i = 0; i < kTiles * 4; ++i) {
            int const key = i / 4 * 8 + lane % 4 * 2 + i % 2;
            if (key >= limit) {
                VITC_UNROLL
                for (int t = 0; t < kWarpTiles; ++t) {
                    scores[t][i / 4][i % 4] = kNegativeInfinity;
                }
            }
        }
    }

    // Turns score differences into exponents of 2.
    VITC_DEVICE float factor() const { return kHasBias ? 1.0f : p.logit_factors[scale_head]; }

    // A row that a bias has masked so far has the peak -inf, and -inf - -inf would be NaN.
    static VITC_DEVICE float finite(float peak) { return kHasBias && peak == kNegativeInfinity ? 0.0f : peak; }

    template <int kTiles>
    VITC_DEVICE float tile_peak(int t, int half) const {
        float peak = scores[t][0][2 * half];
        VITC_UNROLL
        for (int i = 0; i < kTiles; ++i) {
            peak = maximum(peak, maximum(scores[t][i][2 * half], scores[t][i][2 * half + 1]));
        }
        peak = maximum(peak, shuffle_xor(peak, 1));
        return maximum(peak, shuffle_xor(peak, 2));
    }

    // P in INT8: 255 * 2^(s - the tile's own peak), rounded; then weighted = weighted * decay + (P.V) * share.
    template <int kTiles>
    VITC_DEVICE void softmax_times_values_int8(uint32_t values) {
        float decay[kWarpTiles][2];
        float share[kWarpTiles][2];
        uint32_t probabilities[kWarpTiles][kTiles / 4][4];
        VITC_UNROLL
        for (int t = 0; t < kWarpTiles; ++t) {
            VITC_UNROLL
            for (int half = 0; half < 2; ++half) {
                float const own = tile_peak<kTiles>(t, half);
                float const before = state.peak[t][half];
                float const peak = maximum(before, own);
                decay[t][half] = exp2_approx((before - finite(peak)) * factor());
                share[t][half] = exp2_approx((own - finite(peak)) * factor());
                state.peak[t][half] = peak;
                int const sum = quantize_row<kTiles>(probabilities[t], t, half, finite(own));
                state.total[t][half] = fused_multiply_add(sum_as_float(sum), share[t][half],
                                                          state.total[t][half] * decay[t][half]);
            }
        }
        add_values_int8<kTiles>(values, probabilities, decay, share);
    }

    // The integer sum over a row's four threads; below 255 * 128, so exact in FP32.
    static VITC_DEVICE float sum_as_float(int sum) {
        sum += shuffle_xor(sum, 1);
        sum += shuffle_xor(sum, 2);
        return as_float(kMagicBits + sum) - kMagic;
    }

    // P of one row of each 32 keys as two registers of the left operand. Its bytes hold keys 2c, 2c + 1, 2c + 8 and
    // 2c + 9 (c = lane % 4) where the instruction says 4c .. 4c + 3: an order of keys that V is given too.
    template <int kTiles>
    VITC_DEVICE int quantize_row(uint32_t (&row)[kTiles / 4][4], int t, int half, float peak) const {
        int sum = 0;
        VITC_UNROLL
        for (int group = 0; group < kTiles / 4; ++group) {
            VITC_UNROLL
            for (int side = 0; side < 2; ++side) {
                uint32_t bits[4];
                VITC_UNROLL
                for (int i = 0; i < 4; ++i) {
                    float const score = scores[t][4 * group + 2 * side + i / 2][2 * half + i % 2];
                    float const exponent = fused_multiply_add(score - peak, factor(), kLog2ProbabilityMax);
                    bits[i] = as_bits(exp2_approx(exponent) + kMagic);
                }
                uint32_t const low = permute_bytes(bits[0], bits[1], 0x0040);
                uint32_t const high = permute_bytes(bits[2], bits[3], 0x0040);
                uint32_t const packed = permute_bytes(low, high, 0x5410);
                sum = dot4_u8(packed, 0x01010101u, sum);
                row[group][2 * side + half] = packed;
            }
        }
        return sum;
    }

    template <int kTiles>
    VITC_DEVICE void add_values_int8(uint32_t values, uint32_t const (&probabilities)[kWarpTiles][kTiles / 4][4],
                                     float const (&decay)[kWarpTiles][2], float const (&share)[kWarpTiles][2]) {
        VITC_UNROLL
        for (int group = 0; group < kDimGroups; ++group) {
            int sums[kWarpTiles][2][4];
            VITC_UNROLL
            for (int i = 0; i < kWarpTiles * 8; ++i) {
                sums[i / 8][i / 4 % 2][i % 4] = magic[i % 4];
            }
            VITC_UNROLL
            for (int keys = 0; keys < kTiles / 4; ++keys) {
                uint32_t v[4];
                load_matrix_x4_trans(v, values + Rows::offset(32 * keys + lane, group));
                // Each register has dims 2n and 2n + 1 (n = lane / 4) of keys 2c and 2c + 1, of 8 keys each.
                uint32_t const even[2] = {permute_bytes(v[0], v[1], 0x6420), permute_bytes(v[2], v[3], 0x6420)};
                uint32_t const odd[2] = {permute_bytes(v[0], v[1], 0x7531), permute_bytes(v[2], v[3], 0x7531)};
                VITC_UNROLL
                for (int t = 0; t < kWarpTiles; ++t) {
                    multiply_pv(sums[t][0], probabilities[t][keys], even[0], even[1]);
                    multiply_pv(sums[t][1], probabilities[t][keys], odd[0], odd[1]);
                }
            }
            VITC_UNROLL
            for (int i = 0; i < kWarpTiles * 8; ++i) {
                int const t = i / 8;
                float& total = weighted[t][group][i / 4 % 2][i % 4];
                float const product = as_float(sums[t][i / 4 % 2][i % 4]) - kMagic;
                total = fused_multiply_add(product, share[t][i / 2 % 2], total * decay[t][i / 2 % 2]);
            }
        }
    }

    // P in FP16: 2^(s - the running peak); the sums stay in the tensor core's FP32 accumulators.
    template <int kTiles>
    VITC_DEVICE void softmax_times_values_half(uint32_t values) {
        uint32_t probabilities[kWarpTiles][kTiles / 2][4];
        VITC_UNROLL
        for (int t = 0; t < kWarpTiles; ++t) {
            VITC_UNROLL
            for (int half = 0; half < 2; ++half) {
                float const before = state.peak[t][half];
                float const peak = maximum(before, tile_peak<kTiles>(t, half));
                float const decay = exp2_approx((before - finite(peak)) * factor());
                state.peak[t][half] = peak;
                float sum = 0.0f;
                VITC_UNROLL
                for (int i = 0; i < kTiles; ++i) {
                    float const low = exp2_approx((scores[t][i][2 * half] - finite(peak)) * factor());
                    float const high = exp2_approx((scores[t][i][2 * half + 1] - finite(peak)) * factor());
                    sum += low + high;
                    probabilities[t][i / 2][i % 2 * 2 + half] = pack_half2(low, high);
                }
                state.total[t][half] = fused_multiply_add(state.total[t][half], decay, sum);
                VITC_UNROLL
                for (int i = 0; i < kDimGroups * 4; ++i) {
                    weighted[t][i / 4][i / 2 % 2][2 * half + i % 2] *= decay;
                }
            }
        }
        if constexpr (kInput == Element::kInt8) {
            add_int8_values_half<kTiles>(values, probabilities);
        } else {
            add_half_values_half<kTiles>(values, probabilities);
        }
    }

    // Two signed bytes (those at 0 and 2, or at 1 and 3) as FP16. x + 128 in the mantissa of 1024 is 1152 + x.
    static VITC_DEVICE uint32_t bytes_to_half2(uint32_t bytes, uint32_t selector) {
        return subtract_half2(permute_bytes(bytes ^ 0x80808080u, 0x64646464u, selector), 0x64806480u);
    }

    template <int kTiles>
    VITC_DEVICE void add_int8_values_half(uint32_t values, uint32_t const (&probabilities)[kWarpTiles][kTiles / 2][4]) {
        constexpr uint32_t kEvenDim = 0x4240;
        constexpr uint32_t kOddDim = 0x4341;
        VITC_UNROLL
        for (int group = 0; group < kDimGroups; ++group) {
            VITC_UNROLL
            for (int keys = 0; keys < kTiles / 4; ++keys) {
                uint32_t v[4];
                load_matrix_x4_trans(v, values + Rows::offset(32 * keys + lane, group));
                VITC_UNROLL
                for (int side = 0; side < 2; ++side) {
                    uint32_t const low = v[2 * side];
                    uint32_t const high = v[2 * side + 1];
                    uint32_t const even[2] = {bytes_to_half2(low, kEvenDim), bytes_to_half2(high, kEvenDim)};
                    uint32_t const odd[2] = {bytes_to_half2(low, kOddDim), bytes_to_half2(high, kOddDim)};
                    VITC_UNROLL
                    for (int t = 0; t < kWarpTiles; ++t) {
                        multiply_half(weighted[t][group][0], probabilities[t][2 * keys + side], even[0], even[1]);
                        multiply_half(weighted[t][group][1], probabilities[t][2 * keys + side], odd[0], odd[1]);
                    }
                }
            }
        }
    }

    template <int kTiles>
    VITC_DEVICE void add_half_values_half(uint32_t values, uint32_t const (&probabilities)[kWarpTiles][kTiles / 2][4]) {
        VITC_UNROLL
        for (int group = 0; group < kDimGroups; ++group) {
            VITC_UNROLL
            for (int keys = 0; keys < kTiles / 2; ++keys) {
                uint32_t v[4];
                load_matrix_x4_trans(v, values + Rows::offset(16 * keys + lane % 16, 2 * group + lane / 16));
                VITC_UNROLL
                for (int t = 0; t < kWarpTiles; ++t) {
                    multiply_half(weighted[t][group][0], probabilities[t][keys], v[0], v[1]);
                    multiply_half(weighted[t][group][1], probabilities[t][keys], v[2], v[3]);
                }
            }
        }
    }

    template <int kTiles>
    VITC_DEVICE void softmax_times_values(uint32_t values) {
        if constexpr (kIntegerPv) {
            softmax_times_values_int8<kTiles>(values);
        } else {
            softmax_times_values_half<kTiles>(values);
        }
    }

    // A tile, or as much of it as holds keys: kTiles * 8 of them, the last ones masked where there are fewer.
    template <int kTiles>
    VITC_DEVICE void take_keys(int stage, int first_query, int first_key, int64_t bias_offset) {
        multiply_queries_by_keys<kTiles>(keys_at(stage));
        if constexpr (kHasBias) {
            add_bias<kTiles>(first_query, first_key, bias_offset);
        }
        if (p.keys - first_key < kTiles * 8) {
            mask_keys_from<kTiles>(p.keys - first_key);
        }
        softmax_times_values<kTiles>(values_at(stage));
    }

    // What an accumulator is to be multiplied by: 0 for a row whose keys are all masked, which has no mean.
    VITC_DEVICE float multiplier(int t, int half) const {
        float total = state.total[t][half];
        if constexpr (!kIntegerPv) {
            total += shuffle_xor(total, 1);
            total += shuffle_xor(total, 2);
        }
        return total > 0.0f ? divide(p.out_factors[scale_head], total) : 0.0f;
    }

    // Four neighbours in a row (INT8 V: dims 4c .. 4c + 3 of the group, even and odd by turns), or two in each of the
    // two tiles of 8 (FP16 V), put where the row lies in shared memory. Only this warp touches its rows.
    VITC_DEVICE void stage_output() {
        uint32_t const out = shared + static_cast<uint32_t>(warp_row) * Config::kOutRowBytes;
        VITC_UNROLL
        for (int t = 0; t < kWarpTiles; ++t) {
            VITC_UNROLL
            for (int half = 0; half < 2; ++half) {
                float const factor = multiplier(t, half);
                int const row = 16 * t + 8 * half + lane / 4;
                VITC_UNROLL
                for (int group = 0; group < kDimGroups; ++group) {
                    float const a0 = weighted[t][group][0][2 * half] * factor;
                    float const a1 = weighted[t][group][0][2 * half + 1] * factor;
                    float const b0 = weighted[t][group][1][2 * half] * factor;
                    float const b1 = weighted[t][group][1][2 * half + 1] * factor;
                    if constexpr (kInput == Element::kInt8) {
                        stage_four(out, row, 16 * group + lane % 4 * 4, a0, b0, a1, b1);
                    } else {
                        stage_two(out, row, 16 * group + lane % 4 * 2, a0, a1);
                        stage_two(out, row, 16 * group + 8 + lane % 4 * 2, b0, b1);
                    }
                }
            }
        }
    }

    static VITC_DEVICE uint32_t out_address(uint32_t out, int row, int byte) {
        return out + OutRows::offset(row, byte / kChunk) + static_cast<uint32_t>(byte % kChunk);
    }

    static VITC_DEVICE uint32_t saturate(float x) {
        return static_cast<uint32_t>(round_to_int(minimum(maximum(x, -128.0f), 127.0f))) & 0xffu;
    }

    static VITC_DEVICE void stage_two(uint32_t out, int row, int column, float x0, float x1) {
        if constexpr (Config::kOutput == Element::kInt8) {
            store_shared(out_address(out, row, column), static_cast<uint16_t>(saturate(x0) | saturate(x1) << 8));
        } else {
            store_shared(out_address(out, row, 2 * column), pack_half2(x0, x1));
        }
    }

    static VITC_DEVICE void stage_four(uint32_t out, int row, int column, float x0, float x1, float x2, float x3) {
        if constexpr (Config::kOutput == Element::kInt8) {
            uint32_t const packed = saturate(x0) | saturate(x1) << 8 | saturate(x2) << 16 | saturate(x3) << 24;
            store_shared(out_address(out, row, column), packed);
        } else {
            store_shared(out_address(out, row, 2 * column), uint2{pack_half2(x0, x1), pack_half2(x2, x3)});
        }
    }

    VITC_DEVICE void write_output(int batch, int head, int first_query) const {
        constexpr int kPiece = Config::kValidOutRowBytes % 16 == 0 ? 16 : 8;
        constexpr int kPieces = Config::kValidOutRowBytes / kPiece;
        int64_t const row_bytes = static_cast<int64_t>(p.heads) * Config::kValidOutRowBytes;
        char* const target = static_cast<char*>(p.out) + batch * (p.queries * row_bytes) +
                             static_cast<int64_t>(head) * Config::kValidOutRowBytes;
        uint32_t const out = shared + static_cast<uint32_t>(warp_row) * Config::kOutRowBytes;
        constexpr int kTotal = 16 * kWarpTiles * kPieces;
        VITC_UNROLL
        for (int round = 0; round < (kTotal + 31) / 32; ++round) {
            int const i = round * 32 + lane;
            if (kTotal % 32 != 0 && i >= kTotal) {
                break;
            }
            int const row = i / kPieces;
            int const byte = i % kPieces * kPiece;
            int const query = first_query + warp_row + row;
            if (query < p.queries) {
                char* const to = target + query * row_bytes + byte;
                if constexpr (kPiece == 16) {
                    uint4 piece;
                    load_shared(piece, out_address(out, row, byte));
                    store_global(reinterpret_cast<uint4*>(to), piece);
                } else {
                    uint2 piece;
                    load_shared(piece, out_address(out, row, byte));
                    store_global(reinterpret_cast<uint2*>(to), piece);
                }
            }
        }
    }

    VITC_DEVICE void run() {
        int const query_tiles = (p.queries + Config::kQueryRows - 1) / Config::kQueryRows;
        int const key_tiles = (p.keys + Config::kKeyRows - 1) / Config::kKeyRows;
        // Neighbouring blocks share a head, so that its K and V stay in L2.
        int const first_query = block_index() % query_tiles * Config::kQueryRows;
        int const head = block_index() / query_tiles % p.heads;
        int const batch = block_index() / query_tiles / p.heads;
        scale_head = p.scale_heads == 1 ? 0 : head;

        constexpr int kElement = Config::kElementBytes;
        auto const start_of = [&](void const* tensor, Strides const& s) {
            return static_cast<char const*>(tensor) + (batch * s.batch + head * s.head) * kElement;
        };
        char const* const q = start_of(p.q, p.q_strides);
        char const* const k = start_of(p.k, p.kv_strides);
        char const* const v = start_of(p.v, p.kv_strides);
        // A row is far below 2 GiB; its products with a row's number are not.
        int const q_row = static_cast<int>(p.q_strides.row) * kElement;
        int const kv_row = static_cast<int>(p.kv_strides.row) * kElement;
        int64_t const bias_head = p.bias_heads == 1 ? 0 : head;
        int64_t const bias_offset =
            (batch % p.bias_windows * static_cast<int64_t>(p.bias_heads) + bias_head) * p.queries * p.keys;

        bool const has_rows = first_query + warp_row < p.queries;
        auto const load_stage = [&](int tile) {
            int const first = tile * Config::kKeyRows;
            load_rows<Config::kKeyRows, Config::kRowBytes, Config::kValidRowBytes, Config::kThreads>(
                keys_at(tile % 2), k, kv_row, first, p.keys);
            load_rows<Config::kKeyRows, Config::kRowBytes, Config::kValidRowBytes, Config::kThreads>(
                values_at(tile % 2), v, kv_row, first, p.keys);
            commit_loads();
        };

        load_rows<Config::kQueryRows, Config::kRowBytes, Config::kValidRowBytes, Config::kThreads>(shared, q, q_row,
                                                                                                  first_query, p.queries);
        load_stage(0);
        reset();
        wait_for_loads();
        load_q_fragments();
        for (int tile = 0; tile < key_tiles; ++tile) {
            if (tile + 1 < key_tiles) {
                load_stage(tile + 1);  // into the stage that the tile before this one has left
            }
            int const first_key = tile * Config::kKeyRows;
            if (!has_rows) {
                // The last block's warps beyond the last query only help to load.
            } else if (kTailTiles < kKeyTiles && p.keys - first_key <= kTailTiles * 8) {
                take_keys<kTailTiles>(tile % 2, first_query, first_key, bias_offset);
            } else {
                take_keys<kKeyTiles>(tile % 2, first_query, first_key, bias_offset);
            }
            wait_for_loads();  // the next tile has come, and every warp has left this one
        }
        if (has_rows) {
            stage_output();  // over Q, which is in registers since the first barrier
            sync_warp();
            write_output(batch, head, first_query);
        }
    }
};

template <typename Config>
VITC_KERNEL(Config::kThreads, Config::kBlocksPerSm) attention_kernel(VITC_PARAMETER AttentionParams const params) {
    AttentionBlock<Config> block(params);
    block.run();
}

}  // namespace vitc
