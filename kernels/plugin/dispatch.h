// Chooses the compiled variant for a node and starts it. Everything CUDA about the plugin is behind these functions.
#pragma once

#include <cuda_runtime_api.h>

#include <string>

#include "config.h"
#include "params.h"

namespace vitc {

// What chooses among the compiled kernels.
struct VariantKey {
    int32_t head_dim;
    Element input;
    Element probability;
    Element output;
    bool has_bias;
    int32_t tile_q;  // a hint
    int32_t tile_k;  // a hint
};

// A compiled kernel, ready to be launched any number of times, from any thread.
struct Kernel {
    void (*function)(AttentionParams);
    int32_t query_rows;
    int32_t threads;
    int32_t shared_bytes;
};

// Whether this build of the plugin has the head dimension at all (see VITC_HEAD_DIMS of the build).
bool has_head_dim(int32_t head_dim);

// The kernel for `key` on a device whose blocks may have `shared_limit` bytes of shared memory: the hinted tile if it
// is compiled and fits, else the default, else the smallest. False, and a sentence in `error`, where there is none.
bool find_kernel(VariantKey const& key, int32_t shared_limit, Kernel& kernel, std::string& error);

// Lets the kernel use its shared memory on the current device. Once is enough; allocates nothing.
cudaError_t prepare(Kernel const& kernel);

// Enqueues one launch. Allocates nothing and does not wait, so a CUDA graph can capture it.
cudaError_t launch(Kernel const& kernel, AttentionParams const& params, cudaStream_t stream);

}  // namespace vitc
