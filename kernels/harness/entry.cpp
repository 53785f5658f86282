// The C face of the harness: runs one variant of the kernel over buffers that the caller owns.
// VITC_VARIANTS(X) is a list of X(head_dim, input, probability, output, has_bias, query_rows, key_rows, warps).
#include <algorithm>
#include <cstdio>

#include "attention.cuh"
#include "variants.inc"

namespace {

using vitc::AttentionConfig;
using vitc::Element;

struct Buffer {
    void* data;
    int64_t bytes;
};

}  // namespace

extern "C" {

// Mirrored by harness/__init__.py.
struct HarnessCall {
    Buffer q, k, v, bias, out;
    vitc::AttentionExtent extent;
    vitc::AttentionScales scales;  // with the address of the factors by head, or null
    int32_t layout;
    int32_t bias_windows;
    int32_t bias_heads;
    int32_t bias_is_half;
    int32_t causal;
};

struct HarnessVariant {
    int32_t head_dim, input, probability, output, has_bias, query_rows, key_rows, warps;
};
}

namespace {

template <typename Config>
bool is(HarnessVariant const& v) {
    return v.head_dim == Config::kHeadDim && v.input == static_cast<int>(Config::kInput) &&
           v.probability == static_cast<int>(Config::kProbability) && v.output == static_cast<int>(Config::kOutput) &&
           (v.has_bias != 0) == Config::kHasBias && v.query_rows == Config::kQueryRows &&
           v.key_rows == Config::kKeyRows && v.warps == Config::kWarps;
}

vitc::AttentionParams params_of(HarnessCall const& call, int32_t element) {
    vitc::AttentionParams params =
        vitc::make_params(static_cast<vitc::Layout>(call.layout), call.extent, call.scales, call.q.data, call.k.data,
                          call.v.data, call.out.data, element);
    params.bias = call.bias.data;
    params.bias_windows = call.bias_windows;
    params.bias_heads = call.bias_heads;
    params.bias_is_half = call.bias_is_half;
    params.causal = call.causal;
    return params;
}

template <typename Config>
bool run(HarnessCall const& call, std::string& error, vitc::harness::Statistics& statistics) {
    vitc::AttentionParams const params = params_of(call, Config::kElementBytes);

    std::vector<vitc::harness::Region> regions;
    for (Buffer const* input : {&call.q, &call.k, &call.v, &call.bias}) {
        regions.push_back({static_cast<char const*>(input->data), static_cast<size_t>(input->bytes), false});
    }
    regions.push_back({static_cast<char const*>(call.out.data), static_cast<size_t>(call.out.bytes), true});

    int const query_tiles = (params.queries + Config::kQueryRows - 1) / Config::kQueryRows;
    return vitc::harness::launch([&] { vitc::attention_kernel<Config>(params); },
                                 query_tiles * params.heads * params.batch, Config::kThreads, Config::kSharedBytes,
                                 regions, error, statistics);
}

template <typename Config>
void try_one(HarnessVariant const& wanted, HarnessCall const& call, std::string& error,
             vitc::harness::Statistics& statistics, int& result) {
    if (is<Config>(wanted)) {
        result = run<Config>(call, error, statistics) ? 0 : 1;
    }
}

}  // namespace

// 0: done. 1: a fault, told in `error`. 2: this library has no such variant.
extern "C" int vitc_harness_run(HarnessVariant const* wanted, HarnessCall const* call, char* error, int error_size,
                                int64_t* bank_conflicts) {
    std::string text;
    vitc::harness::Statistics statistics{};
    int result = 2;
#define VITC_TRY(dim_, in_, pv_, out_, bias_, rows_, keys_, warps_)                                                \
    try_one<AttentionConfig<dim_, Element::in_, Element::pv_, Element::out_, bias_ != 0, rows_, keys_, warps_>>(   \
        *wanted, *call, text, statistics, result);
    VITC_VARIANTS(VITC_TRY)
#undef VITC_TRY
    std::snprintf(error, static_cast<size_t>(error_size), "%s", text.c_str());
    *bank_conflicts = statistics.bank_conflicts;
    return result;
}

// The kernel's parameters for a call, as bytes: what launch.py must make too. Returns their number.
extern "C" int vitc_harness_params(HarnessCall const* call, int element, void* target) {
    vitc::AttentionParams const params = params_of(*call, element);
    std::memcpy(target, &params, sizeof(params));
    return static_cast<int>(sizeof(params));
}
