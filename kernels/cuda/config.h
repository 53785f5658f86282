// What a variant of the kernel is: the constants it is compiled with. Plain C++, for the kernel and its launchers.
#pragma once

#include <cstdint>

namespace vitc {

enum class Element : int32_t { kInt8, kHalf };

constexpr int size_of(Element e) { return e == Element::kInt8 ? 1 : 2; }
constexpr int round_up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }
constexpr int smaller(int a, int b) { return a < b ? a : b; }
constexpr int larger(int a, int b) { return a > b ? a : b; }

// kInput: q, k, v. kProbability: P in P.V (INT8 only with INT8 inputs). kQueryRows x kKeyRows is the tile; kWarps
// share its rows, each taking whole groups of 16.
template <int kHeadDim_, Element kInput_, Element kProbability_, Element kOutput_, bool kHasBias_, int kQueryRows_,
          int kKeyRows_, int kWarps_>
struct AttentionConfig {
    static constexpr int kHeadDim = kHeadDim_;
    static constexpr Element kInput = kInput_;
    static constexpr Element kProbability = kProbability_;
    static constexpr Element kOutput = kOutput_;
    static constexpr bool kHasBias = kHasBias_;
    static constexpr int kQueryRows = kQueryRows_;
    static constexpr int kKeyRows = kKeyRows_;
    static constexpr int kWarps = kWarps_;

    static_assert(kHeadDim % 8 == 0 && kHeadDim >= 16 && kHeadDim <= 128,
                  "the head dimension must be a multiple of 8 from 16 to 128: 128 keeps q.k of INT8 below 2^22");
    static_assert(kQueryRows % (16 * kWarps) == 0, "each warp takes whole groups of 16 query rows");
    static_assert(kKeyRows % 32 == 0, "one INT8 product takes 32 keys");
    static_assert(kKeyRows <= 128, "255 * 128 * kKeyRows must stay below 2^22, or P.V leaves the exact range of FP32");
    static_assert(kInput == Element::kInt8 || kProbability == Element::kHalf,
                  "P in INT8 needs an INT8 V: FP16 inputs take P in FP16");

    static constexpr int kThreads = 32 * kWarps;
    static constexpr int kElementBytes = size_of(kInput);
    static constexpr int kWarpTiles = kQueryRows / kWarps / 16;  // groups of 16 query rows in a warp
    static constexpr int kPaddedDim = round_up(kHeadDim, 16);    // rows in shared memory are whole 16-byte chunks,
    static constexpr int kDimGroups = kPaddedDim / 16;           // and P.V makes 16 columns at once
    static constexpr int kRowBytes = kPaddedDim * size_of(kInput);
    static constexpr int kValidRowBytes = kHeadDim * size_of(kInput);
    static constexpr int kOutRowBytes = kPaddedDim * size_of(kOutput);
    static constexpr int kValidOutRowBytes = kHeadDim * size_of(kOutput);

    // Registers that a thread holds through the whole loop: its share of the output, the scores and Q. What ptxas adds
    // to them was read from its reports (docs/kernel.md); it is told how many blocks to make room for, as its own guess
    // spills a few registers to gain a block.
    static constexpr int kLiveRegisters = kWarpTiles * (kDimGroups * 8 + kKeyRows / 2 + kRowBytes / 8);
    static constexpr int kBlocksOfFourWarps = kLiveRegisters <= 52 ? 4 : kLiveRegisters <= 72 ? 3 : 2;
    static constexpr int kBlocksPerSm = kBlocksOfFourWarps * 4 / kWarps;

    // Whole tiles have a loop of their own, without a look at the number of keys, where registers allow a second one.
    static constexpr int kFetchRegisters = kProbability == Element::kInt8 ? kKeyRows * kRowBytes / 4 / kThreads : 0;
    static constexpr bool kTwoLoops = !kHasBias && kLiveRegisters + kFetchRegisters < 144;

    // Shared memory: Q (later the output on its way out), then two stages of K and V.
    static constexpr int kQueryBytes = kQueryRows * larger(kRowBytes, kOutRowBytes);
    static constexpr int kKeyBytes = kKeyRows * kRowBytes;
    static constexpr int kStageBytes = 2 * kKeyBytes;
    static constexpr int kSharedBytes = kQueryBytes + 2 * kStageBytes;
};

}  // namespace vitc
