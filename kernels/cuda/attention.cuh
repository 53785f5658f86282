// Fused attention for Vision Transformers: INT8 or FP16 in, INT8 or FP16 out, softmax in FP32 registers.
//
// A block holds kQueryRows query rows of one head and walks over the keys in tiles of kKeyRows (FlashAttention-2,
// arXiv 2307.08691). While a tile is multiplied the next one is on its way. Scores and P never leave the registers:
// the layout in which Q.K leaves its sums is, up to an order of keys, the one in which P.V wants its left operand.
// reference.py is the same arithmetic in NumPy, docs/kernel.md the reasons.
#pragma once

#include <type_traits>

#include "config.h"
#include "tiles.cuh"
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
constexpr float kNoOrigin = FLT_MAX;      // of a row that has seen no key: the first tile's maximum rises above it
constexpr float kRebaseAt = 64.0f;        // powers of two that a tile's share may reach before the row is measured anew
constexpr float kSteep = 0.015625f;       // a factor above this, and the origin's rounding would cost P of its 8 bits
constexpr uint32_t kHalfMagic = 0x64006400u;  // 1024 twice: what kMagic is to FP16
constexpr uint32_t kOnes = 0x01010101u;

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

// How scores become exponents of 2 where P is INT8. A tile's origin is c = down(start - slope * maximum), and P's exponent
// factor * score + c. With a steep factor rounding c would cost P of its 8 bits: there c is minus the maximum itself, which
// the scores are first added to (exactly), and P's exponent factor * score + log2(255). With a bias the scores are
// exponents already: a factor of 1, and steep.
template <bool kHasBias>
struct SoftmaxFactors {
    float factor_ = 1.0f, slope_ = 1.0f, start_ = 0.0f, limit_ = kRebaseAt;
    bool steep_ = true;

    VITC_DEVICE void set(float factor) {
        factor_ = hidden_constant(factor, 0);
        steep_ = any_lane(factor_ > kSteep);
        slope_ = hidden_constant(steep_ ? 1.0f : factor_, 1);
        start_ = hidden_constant(steep_ ? 0.0f : kLog2ProbabilityMax, 2);
        limit_ = hidden_constant(steep_ ? kRebaseAt / factor_ : kRebaseAt, 3);
    }
    VITC_DEVICE bool steep() const { return steep_; }
    VITC_DEVICE float factor() const { return factor_; }
    VITC_DEVICE float slope() const { return slope_; }
    VITC_DEVICE float start() const { return start_; }
    VITC_DEVICE float limit() const { return limit_; }  // of a rise, before the row is measured anew
};
template <>
struct SoftmaxFactors<true> {
    VITC_DEVICE void set(float) {}
    static constexpr VITC_DEVICE bool steep() { return true; }
    static constexpr VITC_DEVICE float factor() { return 1.0f; }
    static constexpr VITC_DEVICE float slope() { return 1.0f; }
    static constexpr VITC_DEVICE float start() { return 0.0f; }
    static constexpr VITC_DEVICE float limit() { return kRebaseAt; }
};

// Whether a tile of keys to be brought is known to be whole.
using Whole = std::true_type;
using Any = std::false_type;

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
    template <int kTileRows>
    using Tiles = RowTiles<kTileRows, Config::kRowBytes, Config::kValidRowBytes, Config::kThreads>;
    using Pairs = ValuePairs<Config::kKeyRows, Config::kRowBytes, Config::kValidRowBytes, Config::kThreads>;

    static_assert(!kHalfStep || kIntegerScores, "FP16 rows are padded to whole steps of 32 bytes");

    // Each thread holds, of every group of 16 query rows, two rows (lane / 4 and that + 8), and of every 8 columns two
    // (2 * (lane % 4) and the next): element e of an accumulator is row e / 2, column e % 2.
    struct RowState {
        float peak[kWarpTiles][2];    // P in FP16: the row's maximum so far. P in INT8: the origin it is measured from
        float total[kWarpTiles][2];   // P in FP16: of the thread's own columns; summed over a row's threads at the end
        float shares[kWarpTiles][2];  // P in INT8: the sum of all tiles' shares
    };

    AttentionParams const& p;
    int const lane;
    int const warp_row;
    uint32_t const shared;
    uint32_t q_fragments[kWarpTiles][kSteps + (kHalfStep ? 1 : 0)][4];
    float scores[kWarpTiles][kKeyTiles][4];
    float weighted[kWarpTiles][kDimGroups][2][4];
    RowState state;
    int magic[4];        // kMagicBits four times: what an INT8 product starts from
    SoftmaxFactors<kHasBias> factors;
    uint32_t key_start, pair_start;  // where this lane reads the first of a stage's keys, and of its pairs of values
    int scale_head = 0;  // whose scales are ours: this head's, or 0 where all heads share them

    explicit VITC_DEVICE AttentionBlock(AttentionParams const& params)
        : p(params),
          lane(thread_index() % 32),
          warp_row(thread_index() / 32 * (16 * kWarpTiles)),
          shared(shared_base()) {}

    // A stage is the address of its keys; the values follow.
    static VITC_DEVICE uint32_t values_at(uint32_t stage) { return stage + Config::kKeyBytes; }

    VITC_DEVICE void reset() {
        key_start = hidden_constant(Rows::offset(lane % 8 + lane / 16 * 8, lane / 8 % 2), 4);
        VITC_UNROLL
        for (int i = 0; i < 4; ++i) {
            magic[i] = hidden_constant(kMagicBits, i);
        }
        if constexpr (kIntegerPv) {
            factors.set(p.logit_factors[scale_head]);
            pair_start = hidden_constant(Config::kKeyBytes + Pairs::lane_offset(lane), 5);
        }
        VITC_UNROLL
        for (int t = 0; t < kWarpTiles; ++t) {
            VITC_UNROLL
            for (int half = 0; half < 2; ++half) {
                state.peak[t][half] = kIntegerPv ? kNoOrigin : kNegativeInfinity;
                state.total[t][half] = 0.0f;
                state.shares[t][half] = 0.0f;
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
        uint32_t const start = keys + key_start;
        VITC_UNROLL
        for (int pair = 0; pair < kTiles / 2; ++pair) {
            Sum sums[kWarpTiles][2][4];
            VITC_UNROLL
            for (int i = 0; i < kWarpTiles * 8; ++i) {
                if constexpr (kIntegerScores) {
                    sums[i / 8][i / 4 % 2][i % 4] = magic[i % 4];
                } else {
                    sums[i / 8][i / 4 % 2][i % 4] = 0.0f;
                }
            }
            VITC_UNROLL
            for (int step = 0; step < kSteps; ++step) {
                uint32_t b[4];
                load_matrix_x4(b, Rows::beside(start, keys, key, side, 2 * step) + 16 * pair * Config::kRowBytes);
                VITC_UNROLL
                for (int t = 0; t < kWarpTiles; ++t) {
                    multiply_qk(sums[t][0], q_fragments[t][step], b[0], b[1]);
                    multiply_qk(sums[t][1], q_fragments[t][step], b[2], b[3]);
                }
            }
            if constexpr (kHalfStep) {
                uint32_t b[2];
                load_matrix_x2(b, keys + Rows::offset(lane % 16, kChunks - 1) + 16 * pair * Config::kRowBytes);
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

    // With a bias the scores become exponents of 2, so that it can be added; without one they stay as they are. Rows and
    // keys beyond the last take the last one's: nobody looks at the rows, and the keys are masked.
    template <int kTiles, bool kMasked>
    VITC_DEVICE void add_bias(int first_query, int first_key, int64_t head_offset) {
        int const key = first_key + lane % 4 * 2;
        float const factor = p.logit_factors[scale_head];
        VITC_UNROLL
        for (int i = 0; i < kWarpTiles * 2; ++i) {
            int const row = minimum(first_query + warp_row + lane / 4 + 8 * i, p.queries - 1);
            int64_t const start = head_offset + static_cast<int64_t>(row) * p.keys + key;
            VITC_UNROLL
            for (int j = 0; j < kTiles * 2; ++j) {
                int const at = kMasked ? minimum(j / 2 * 8 + j % 2, p.keys - 1 - key) : j / 2 * 8 + j % 2;
                float const bias = p.bias_is_half ? load_global_half(p.bias, start + at)
                                                  : load_global(static_cast<float const*>(p.bias) + start + at);
                float& score = scores[i / 2][j / 2][i % 2 * 2 + j % 2];
                float const dot = kIntegerScores ? score - kMagic : score;
                score = fused_multiply_add(dot, factor, bias * kLog2EFloat);
            }
        }
    }

    // Keys from `limit` on, counted from the tile's first, are there for nobody.
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

    // Row r sees keys up to `diagonal` + r, counted from the warp's first row and the tile's first key.
    template <int kTiles>
    VITC_DEVICE void mask_keys_above(int diagonal) {
        VITC_UNROLL
        for (int i = 0; i < kWarpTiles * kTiles * 4; ++i) {
            int const t = i / (kTiles * 4);
            int const key = i / 4 % kTiles * 8 + lane % 4 * 2 + i % 2;
            if (key > diagonal + 16 * t + i / 2 % 2 * 8 + lane / 4) {
                scores[t][i / 4 % kTiles][i % 4] = kNegativeInfinity;
            }
        }
    }

    // Turns score differences into exponents of 2.
    VITC_DEVICE float factor() const { return kHasBias ? 1.0f : p.logit_factors[scale_head]; }

    // A row that a bias has masked so far has the peak -inf, and -inf - -inf would be NaN.
    static VITC_DEVICE float finite(float peak) { return kHasBias && peak == kNegativeInfinity ? 0.0f : peak; }

    template <int kTiles>
    VITC_DEVICE float tile_peak(int t, int half) const {
        float peak = maximum(scores[t][0][2 * half], scores[t][0][2 * half + 1]);
        VITC_UNROLL
        for (int i = 1; i < kTiles; ++i) {
            peak = maximum(peak, maximum(scores[t][i][2 * half], scores[t][i][2 * half + 1]));
        }
        peak = maximum(peak, shuffle_xor(peak, 1));
        return maximum(peak, shuffle_xor(peak, 2));
    }

    // P in INT8: 255 * 2^(s - the tile's own peak), rounded; then weighted += (P.V) * share, the share being the tile's
    // weight beside the tile that the row is measured from.
    // `meanwhile` is called where the fewest registers are in use.
    template <int kTiles, typename Meanwhile>
    VITC_DEVICE void softmax_times_values_int8(uint32_t values, Meanwhile const& meanwhile) {
        float origin[kWarpTiles][2];
        float rise[kWarpTiles][2];  // the tile's maximum above that of the row's first, as an exponent of 2
        VITC_UNROLL
        for (int t = 0; t < kWarpTiles; ++t) {
            VITC_UNROLL
            for (int half = 0; half < 2; ++half) {
                origin[t][half] = fused_multiply_add_down(-tile_peak<kTiles>(t, half), factors.slope(), factors.start());
                rise[t][half] = state.peak[t][half] - origin[t][half];
            }
        }
        bool far = false;
        VITC_UNROLL
        for (int t = 0; t < kWarpTiles; ++t) {
            far = far || rise[t][0] > factors.limit() || rise[t][1] > factors.limit();
        }
        if (any_lane(far)) {
            rebase(origin, rise);
        }
        if (factors.steep()) {
            subtract_peaks<kTiles>(origin, rise);
        }
        float share[kWarpTiles][2];
        uint32_t probabilities[kWarpTiles][kTiles / 4][4];
        VITC_UNROLL
        for (int t = 0; t < kWarpTiles; ++t) {
            VITC_UNROLL
            for (int half = 0; half < 2; ++half) {
                share[t][half] = exp2_approx(rise[t][half]);
                quantize_row<kTiles>(probabilities[t], t, half, origin[t][half]);
            }
        }
        meanwhile();
        add_values_int8<kTiles>(values, probabilities, share);
    }

    // The row's weights are measured from this tile on from its own maximum.
    VITC_DEVICE void rebase(float const (&origin)[kWarpTiles][2], float (&rise)[kWarpTiles][2]) {
        VITC_UNROLL
        for (int t = 0; t < kWarpTiles; ++t) {
            VITC_UNROLL
            for (int half = 0; half < 2; ++half) {
                if (rise[t][half] > factors.limit()) {
                    float const decay = exp2_approx(factors.steep() ? -rise[t][half] * factors.factor() : -rise[t][half]);
                    state.peak[t][half] = origin[t][half];
                    state.total[t][half] *= decay;
                    state.shares[t][half] *= decay;
                    rise[t][half] = 0.0f;
                    VITC_UNROLL
                    for (int i = 0; i < kDimGroups * 4; ++i) {
                        weighted[t][i / 4][i / 2 % 2][2 * half + i % 2] *= decay;
                    }
                }
            }
        }
    }

    template <int kTiles>
    VITC_DEVICE void subtract_peaks(float (&origin)[kWarpTiles][2], float (&rise)[kWarpTiles][2]) {
        VITC_UNROLL
        for (int t = 0; t < kWarpTiles; ++t) {
            VITC_UNROLL
            for (int i = 0; i < kTiles * 4; ++i) {
                scores[t][i / 4][i % 4] += origin[t][i / 2 % 2];
            }
            VITC_UNROLL
            for (int half = 0; half < 2; ++half) {
                rise[t][half] *= factors.factor();
                origin[t][half] = kLog2ProbabilityMax;
            }
        }
    }

    // P of one row of each 32 keys as two registers of the left operand. Its bytes hold keys 2c, 2c + 1, 2c + 8 and
    // 2c + 9 (c = lane % 4) where the instruction says 4c .. 4c + 3: an order of keys that V is given too.
    template <int kTiles>
    VITC_DEVICE void quantize_row(uint32_t (&row)[kTiles / 4][4], int t, int half, float origin) const {
        VITC_UNROLL
        for (int group = 0; group < kTiles / 4; ++group) {
            VITC_UNROLL
            for (int side = 0; side < 2; ++side) {
                uint32_t pairs[2];
                VITC_UNROLL
                for (int i = 0; i < 2; ++i) {
                    float const* const score = scores[t][4 * group + 2 * side + i] + 2 * half;
                    float const low = exp2_approx(fused_multiply_add(score[0], factors.factor(), origin));
                    float const high = exp2_approx(fused_multiply_add(score[1], factors.factor(), origin));
                    pairs[i] = add_half2(pack_half2(low, high), kHalfMagic);
                }
                row[group][2 * side + half] = permute_bytes(pairs[0], pairs[1], 0x6420);
            }
        }
    }

    // A column of ones beside V gives P's sum.
    template <int kTiles>
    VITC_DEVICE void add_values_int8(uint32_t values, uint32_t const (&probabilities)[kWarpTiles][kTiles / 4][4],
                                     float const (&share)[kWarpTiles][2]) {
        VITC_UNROLL
        for (int t = 0; t < kWarpTiles; ++t) {
            int sums[4] = {magic[0], magic[1], magic[2], magic[3]};
            VITC_UNROLL
            for (int keys = 0; keys < kTiles / 4; ++keys) {
                multiply_pv(sums, probabilities[t][keys], kOnes, kOnes);
            }
            VITC_UNROLL
            for (int half = 0; half < 2; ++half) {
                float const sum = as_float(sums[2 * half]) - kMagic;
                state.total[t][half] = fused_multiply_add(sum, share[t][half], state.total[t][half]);
                state.shares[t][half] += share[t][half];
            }
        }
        uint32_t const start = values - Config::kKeyBytes + pair_start;
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
                Pairs::operands(v, start, values, keys, group, lane);
                VITC_UNROLL
                for (int t = 0; t < kWarpTiles; ++t) {
                    multiply_pv(sums[t][0], probabilities[t][keys], v[0], v[1]);
                    multiply_pv(sums[t][1], probabilities[t][keys], v[2], v[3]);
                }
            }
            // kMagic * share comes in with every tile: one instruction rather than two, and `unbiased` takes it out.
            VITC_UNROLL
            for (int i = 0; i < kWarpTiles * 8; ++i) {
                int const t = i / 8;
                float& total = weighted[t][group][i / 4 % 2][i % 4];
                total = fused_multiply_add(as_float(sums[t][i / 4 % 2][i % 4]), share[t][i / 2 % 2], total);
            }
        }
    }

    VITC_DEVICE float unbiased(float sum, int t, int half) const {
        return kIntegerPv ? fused_multiply_add(-kMagic, state.shares[t][half], sum) : sum;
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
                load_matrix_x4_trans(v, values + Rows::offset(lane, group) + 32 * keys * Config::kRowBytes);
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
                load_matrix_x4_trans(v, values + Rows::offset(lane % 16, 2 * group + lane / 16) + 16 * keys * Config::kRowBytes);
                VITC_UNROLL
                for (int t = 0; t < kWarpTiles; ++t) {
                    multiply_half(weighted[t][group][0], probabilities[t][keys], v[0], v[1]);
                    multiply_half(weighted[t][group][1], probabilities[t][keys], v[2], v[3]);
                }
            }
        }
    }

    template <int kTiles, typename Meanwhile>
    VITC_DEVICE void softmax_times_values(uint32_t values, Meanwhile const& meanwhile) {
        if constexpr (kIntegerPv) {
            softmax_times_values_int8<kTiles>(values, meanwhile);
        } else {
            softmax_times_values_half<kTiles>(values);
        }
    }

    // A tile, or as much of it as holds keys: kTiles * 8 of them, the last ones masked where there are fewer.
    template <int kTiles, bool kMasked, typename Meanwhile>
    VITC_DEVICE void take_keys(uint32_t stage, int first_query, int first_key, int64_t bias_offset, Meanwhile const& meanwhile) {
        multiply_queries_by_keys<kTiles>(stage);
        if constexpr (kHasBias) {
            add_bias<kTiles, kMasked>(first_query, first_key, bias_offset);
        }
        if (kMasked && p.keys - first_key < kTiles * 8) {
            mask_keys_from<kTiles>(p.keys - first_key);
        }
        if (kMasked && p.causal != 0 && first_key + kTiles * 8 > first_query) {
            mask_keys_above<kTiles>(first_query + warp_row - first_key);
        }
        softmax_times_values<kTiles>(values_at(stage), meanwhile);
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
                    float const a0 = unbiased(weighted[t][group][0][2 * half], t, half) * factor;
                    float const a1 = unbiased(weighted[t][group][0][2 * half + 1], t, half) * factor;
                    float const b0 = unbiased(weighted[t][group][1][2 * half], t, half) * factor;
                    float const b1 = unbiased(weighted[t][group][1][2 * half + 1], t, half) * factor;
                    if constexpr (kIntegerScores && !kIntegerPv) {
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
        int const kv_row = hidden_constant(static_cast<int>(p.kv_strides.row) * kElement, 0);
        int64_t const bias_head = p.bias_heads == 1 ? 0 : head;
        int64_t const bias_offset =
            (batch % p.bias_windows * static_cast<int64_t>(p.bias_heads) + bias_head) * p.queries * p.keys;

        Tiles<Config::kKeyRows> key_tiles(k, kv_row);
        std::conditional_t<kIntegerPv, Pairs, Tiles<Config::kKeyRows>> value_tiles(v, kv_row);
        auto const load_stage = [&](uint32_t stage, int first, auto whole) {
            constexpr bool kWhole = decltype(whole)::value;
            if constexpr (kIntegerPv) {
                value_tiles.template fetch<kWhole, 0>(first, p.keys);
            } else {
                value_tiles.template fetch<kWhole>(values_at(stage), first, p.keys);
            }
            key_tiles.template fetch<kWhole>(stage, first, p.keys);
            commit_loads();
        };
        auto const load_more = [&](uint32_t stage, int first, auto whole) {
            if constexpr (kIntegerPv && Pairs::kParts > 1) {
                value_tiles.template store<0>(values_at(stage));
                value_tiles.template fetch<decltype(whole)::value, 1>(first, p.keys);
            }
        };
        auto const finish_stage = [&](uint32_t stage) {
            if constexpr (kIntegerPv) {
                value_tiles.template store<Pairs::kParts - 1>(values_at(stage));
            }
            wait_for_loads();
        };

        Tiles<Config::kQueryRows> query_tile(q + static_cast<int64_t>(first_query) * q_row, q_row);
        query_tile.template fetch<false>(shared, first_query, p.queries);
        uint32_t stage = shared + Config::kQueryBytes;
        uint32_t const both = 2 * stage + Config::kStageBytes;
        load_stage(stage, 0, Any{});
        load_more(stage, 0, Any{});
        reset();
        finish_stage(stage);
        int first_key = 0;
        // Keys that any row of the block sees, and those that all see.
        int const seen = p.causal != 0 ? minimum(p.keys, first_query + Config::kQueryRows) : p.keys;
        int const plain = p.causal != 0 ? minimum(p.keys, first_query + 1) : p.keys;
        auto const other = [&] { return both - stage; };  // that the tile before this one has left
        auto const next_key = [&] { return first_key + Config::kKeyRows; };
        auto const to_next = [&] {
            first_key += Config::kKeyRows;
            stage = other();
            finish_stage(stage);  // the next tile has come, and every warp has left the one before
        };
        if (first_query + warp_row >= p.queries) {
            // The last block's warps beyond the last query only help to load.
            VITC_NO_UNROLL
            while (seen - first_key > Config::kKeyRows) {
                load_stage(other(), next_key(), Any{});
                load_more(other(), next_key(), Any{});
                to_next();
            }
            sync_block();
            return;
        }
        load_q_fragments();
        // Tiles that nothing masks and behind which a whole one follows; then the others: of the last, two (or all of them).
        // From sm_90 on ptxas spills over the two.
        if constexpr (Config::kTwoLoops && kArch < 900) {
            VITC_NO_UNROLL
            int const last = minimum(seen - 2 * Config::kKeyRows, plain - Config::kKeyRows);
            while (first_key <= last) {
                load_stage(other(), next_key(), Whole{});
                take_keys<kKeyTiles, false>(stage, first_query, first_key, bias_offset,
                                            [&] { load_more(other(), next_key(), Whole{}); });
                to_next();
            }
        }
        VITC_NO_UNROLL
        for (;;) {
            bool const more = seen - first_key > Config::kKeyRows;
            if (more) {
                load_stage(other(), next_key(), Any{});
            }
            if (kTailTiles < kKeyTiles && seen - first_key <= kTailTiles * 8) {
                take_keys<kTailTiles, true>(stage, first_query, first_key, bias_offset, [] {});
            } else {
                take_keys<kKeyTiles, true>(stage, first_query, first_key, bias_offset, [&] {
                    if (more) {
                        load_more(other(), next_key(), Any{});
                    }
                });
            }
            if (!more) {
                break;
            }
            to_next();
        }
        sync_block();    // every warp has Q in registers, even where the only tile was the first
        stage_output();  // over Q
        sync_warp();
        write_output(batch, head, first_query);
    }
};

// For how many blocks an SM ptxas makes room: sm_75's shared memory holds fewer than registers would.
constexpr int kSharedOfTuring = 64 * 1024;
template <typename Config>
constexpr int kBlocks = kArch >= 800 ? Config::kBlocksPerSm
                                     : smaller(Config::kBlocksPerSm, larger(1, kSharedOfTuring / Config::kSharedBytes));

template <typename Config>
VITC_KERNEL(Config::kThreads, kBlocks<Config>) attention_kernel(VITC_PARAMETER AttentionParams const params) {
    AttentionBlock<Config> block(params);
    block.run();
}

}  // namespace vitc
