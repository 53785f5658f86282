// What a tape is made of. tape.py mirrors these structs, and compares them with vitc_layout when it opens one.
#pragma once

#include "attention.h"
#include "gemm.h"
#include "layer_norm.h"

namespace vitc {

enum class Kind : int32_t { kLayerNorm = 0, kLinear = 1, kAttention = 2, kCopy = 3 };

struct Step {
    Kind kind;
    Leave leave;
    int32_t in, out;  // buffers; kAddTo adds to `out`
    int32_t in_width, out_width;
    Weights weights;
    LayerNorm norm;
    Attention attention;
    const Activation* activation;
    float inverse_step;
    int32_t zero;
};

// A buffer as the tape knows it: [tokens, width] of FP32 or u8.
struct BufferForm {
    int32_t width;
    int32_t real;
    int32_t whole_batch;  // 0: of one chunk of images only

    int64_t row_bytes() const { return int64_t{width} * (real ? 4 : 1); }
};

// An array for it in one run.
struct Buffer {
    uint8_t* data;
    int64_t bytes;
};

}  // namespace vitc
