// What a tape and its arrays must be for the kernels never to leave a buffer. Each check gives the reason for its
// refusal, or nullptr. The host checks the same with names in its messages (check.py): these hold if it is wrong.
#pragma once

#include <cmath>

#include "step.h"

namespace vitc {

// Sums of u8 x s8 stay within 32 bits: 255 * 128 * 65536 < 2^31. Attention sums over tokens, so they have the same bound.
constexpr int32_t kMostWidth = 1 << 16;
constexpr int32_t kMostTokens = 1 << 16;
constexpr int32_t kMostHeadDim = 1024;
constexpr int32_t kMostThreads = 4096;

inline bool is_whole(int32_t width, int32_t unit) { return width > 0 && width <= kMostWidth && width % unit == 0; }

inline const char* refused_linear(const Step& s, const BufferForm& in, const BufferForm& out) {
    const Weights& w = s.weights;
    if (!w.panels || !w.start || !w.scale || !w.bias) return "a linear step lacks its weights";
    if (!is_whole(w.k, 4) || !is_whole(w.n, kLanes)) return "a linear step's sizes can't be packed";
    if (s.in == s.out) return "a linear step writes over what it reads";
    if (in.real || in.width != w.k) return "a linear step reads another width than its weights have";
    if (out.width != w.n) return "a linear step writes another width than its weights have";
    switch (s.leave) {
        case Leave::kReal:
        case Leave::kAddTo: return out.real ? nullptr : "a linear step leaves FP32 in a buffer of integers";
        case Leave::kQuantized: return out.real ? "a linear step leaves integers in a buffer of FP32" : nullptr;
        case Leave::kActivatedQuantized:
            if (out.real) return "a linear step leaves integers in a buffer of FP32";
            if (!s.activation || !std::isfinite(s.inverse_step)) return "a linear step lacks its activation";
            return nullptr;
        default: return "a linear step leaves what is not known";
    }
}

inline const char* refused_step(const Step& s, const BufferForm& in, const BufferForm& out) {
    switch (s.kind) {
        case Kind::kLayerNorm:
            if (!s.norm.gain || !s.norm.shift) return "a norm lacks its rows";
            if (!is_whole(s.norm.width, kLanes) || in.width != s.norm.width || out.width != s.norm.width || !in.real || out.real)
                return "a norm's buffers differ from its rows";
            return nullptr;
        case Kind::kLinear: return refused_linear(s, in, out);
        case Kind::kAttention: {
            const Attention& a = s.attention;
            if (!a.score_scale || !a.value_scale) return "an attention lacks its scales";
            if (!is_whole(a.head_dim, kLanes) || a.head_dim > kMostHeadDim || a.heads < 1 || a.heads > kMostWidth)
                return "an attention's heads can't be packed";
            const int64_t width = int64_t{a.heads} * a.head_dim;
            if (in.real || out.real || in.width != 3 * width || out.width != width || s.in == s.out)
                return "an attention's buffers differ from its heads";
            return nullptr;
        }
        case Kind::kCopy: return in.real && out.real && in.width == out.width ? nullptr : "a copy's buffers differ";
        default: return "a step is of a kind that is not known";
    }
}

inline const char* refused_tape(const Step* steps, int32_t count, const BufferForm* forms, int32_t buffers, int32_t threads) {
    if (!steps || !forms || count < 1 || buffers < 1) return "a tape without steps or buffers";
    if (threads < 1 || threads > kMostThreads) return "a number of threads that can't be";
    for (int32_t i = 0; i < buffers; i++)
        if (forms[i].width < 1 || forms[i].width > kMostWidth) return "a buffer of a width that can't be";
    for (int32_t i = 0; i < count; i++) {
        const Step& s = steps[i];
        if (s.in < 0 || s.in >= buffers || s.out < 0 || s.out >= buffers) return "a step names a buffer that is not there";
        if (s.in_width != forms[s.in].width || s.out_width != forms[s.out].width) return "a step's widths are not its buffers'";
        if (const char* why = refused_step(s, forms[s.in], forms[s.out])) return why;
    }
    return nullptr;
}

inline const char* refused_run(const BufferForm* forms, int32_t count, const Buffer* buffers, int32_t given, int64_t images,
                               int64_t tokens, int64_t chunk) {
    if (given != count) return "another number of arrays than the tape has buffers";
    if (images < 1 || images > INT32_MAX || tokens < 1 || chunk < 1 || chunk > images || chunk > kMostTokens / tokens)
        return "a number of images or tokens that can't be";
    for (int32_t i = 0; i < count; i++) {
        const int64_t rows = (forms[i].whole_batch ? images : chunk) * tokens;
        if (!buffers[i].data || buffers[i].bytes < rows * forms[i].row_bytes()) return "an array smaller than its buffer";
    }
    return nullptr;
}

}  // namespace vitc
