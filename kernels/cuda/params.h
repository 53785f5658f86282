// What one launch of the attention kernel is told. Plain C++: the kernel, the plugin, the CPU harness and (by its
// layout, see launch.py) the Python launcher all use this one record.
#pragma once

#include <cfloat>
#include <cstdint>

namespace vitc {

enum class Layout : int32_t { kPacked, kBnhd, kBhnd };

constexpr int kMaxScaleHeads = 64;  // heads that may have scales of their own

// Distances in elements of the tensor's own type.
struct Strides {
    int64_t batch;
    int64_t row;
    int64_t head;
};

struct AttentionParams {
    void const* q;
    void const* k;
    void const* v;
    void const* bias;  // [bias_windows, bias_heads, queries, keys], or null
    void* out;         // [batch, queries, heads * head_dim]
    Strides q_strides;
    Strides kv_strides;
    int32_t batch;
    int32_t heads;
    int32_t queries;
    int32_t keys;
    int32_t bias_windows;  // batch element b uses row b % bias_windows
    int32_t bias_heads;    // 1 or heads
    int32_t bias_is_half;  // FP16, else FP32
    int32_t causal;        // 1: query i sees keys 0 .. i alone
    int32_t scale_heads;   // 1 or heads: how many of the factors below there are
    float logit_factors[kMaxScaleHeads];  // q.k * logit_factor is an exponent of 2
    float out_factors[kMaxScaleHeads];    // a weighted mean of V's numbers * out_factor is an output number
};

// The operator's fields that reach the kernel's arithmetic; scales as in vit_attention.toml, 0 = floating point.
struct AttentionScales {
    float softmax;
    float q;
    float k;
    float v;
    float out;
    float const* by_head;  // 3 * heads factors: q's heads, k's, v's; or null
};

constexpr double kLog2E = 1.4426950408889634;

// At least FLT_MIN: a masked key's -inf times 0 would be NaN.
inline float logit_factor(AttentionScales const& s, double q_head, double k_head) {
    double factor = static_cast<double>(s.softmax) * kLog2E;
    if (s.q > 0.0f) {
        factor *= static_cast<double>(s.q) * static_cast<double>(s.k);
    }
    float const rounded = static_cast<float>(factor * (q_head * k_head));
    return rounded < FLT_MIN ? FLT_MIN : rounded;
}

inline float out_factor(AttentionScales const& s, double v_head) {
    double const v = v_head * (s.q > 0.0f ? static_cast<double>(s.v) : 1.0);
    return static_cast<float>(s.out > 0.0f ? v / static_cast<double>(s.out) : v);
}

inline void set_factors(AttentionParams& p, AttentionScales const& s) {
    p.scale_heads = s.by_head != nullptr ? p.heads : 1;
    for (int32_t h = 0; h < p.scale_heads; ++h) {
        auto const factor = [&](int32_t part) {
            return s.by_head != nullptr ? static_cast<double>(s.by_head[part * p.heads + h]) : 1.0;
        };
        p.logit_factors[h] = logit_factor(s, factor(0), factor(1));
        p.out_factors[h] = out_factor(s, factor(2));
    }
}

struct AttentionExtent {
    int32_t batch;
    int32_t heads;
    int32_t head_dim;
    int32_t queries;
    int32_t keys;
};

// Fills in what the layout decides. `q` is qkv when packed, and k and v are not looked at then; `element` is the
// inputs' size in bytes.
inline AttentionParams make_params(Layout layout, AttentionExtent const& e, AttentionScales const& scales, void const* q,
                                   void const* k, void const* v, void* out, int32_t element) {
    AttentionParams p{};
    int64_t const width = static_cast<int64_t>(e.heads) * e.head_dim;
    int64_t const dim = e.head_dim;
    p.q = q;
    p.k = k;
    p.v = v;
    p.out = out;
    if (layout == Layout::kPacked) {
        p.q_strides = p.kv_strides = Strides{e.queries * 3 * width, 3 * width, dim};
        p.k = static_cast<char const*>(q) + width * element;
        p.v = static_cast<char const*>(q) + 2 * width * element;
    } else if (layout == Layout::kBnhd) {
        p.q_strides = Strides{e.queries * width, width, dim};
        p.kv_strides = Strides{e.keys * width, width, dim};
    } else {
        p.q_strides = Strides{e.queries * width, dim, e.queries * dim};
        p.kv_strides = Strides{e.keys * width, dim, e.keys * dim};
    }
    p.batch = e.batch;
    p.heads = e.heads;
    p.queries = e.queries;
    p.keys = e.keys;
    p.bias_windows = 1;
    p.bias_heads = 1;
    set_factors(p, scales);
    return p;
}

}  // namespace vitc
