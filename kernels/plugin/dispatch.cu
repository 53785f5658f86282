#include "dispatch.h"

#include "attention.cuh"
#include "vit_attention_spec.h"

// The head dimensions compiled in: all, or those that the build was told.
#ifndef VITC_HEAD_DIMS
#define VITC_HEAD_DIMS(X) VITC_ALL_HEAD_DIMS(X)
#endif

namespace vitc {
namespace {

template <typename Config>
Kernel kernel_of() {
    return Kernel{attention_kernel<Config>, Config::kQueryRows, Config::kThreads, Config::kSharedBytes};
}

// The tile by preference: the hinted one, then the others in the table's order.
template <int kHeadDim, Element kInput, Element kProbability, Element kOutput, bool kHasBias>
bool pick_tile(VariantKey const& key, int32_t shared_limit, Kernel& kernel) {
    Kernel const tiles[] = {
#define VITC_KERNEL_OF(rows, keys, warps) \
    kernel_of<AttentionConfig<kHeadDim, kInput, kProbability, kOutput, kHasBias, rows, keys, warps>>(),
        VITC_TILES(VITC_KERNEL_OF)
#undef VITC_KERNEL_OF
    };
    int32_t const shapes[][2] = {
#define VITC_SHAPE(rows, keys, warps) {rows, keys},
        VITC_TILES(VITC_SHAPE)
#undef VITC_SHAPE
    };
    int32_t const count = sizeof(tiles) / sizeof(tiles[0]);
    for (int32_t i = 0; i < count; ++i) {
        if (shapes[i][0] == key.tile_q && shapes[i][1] == key.tile_k && tiles[i].shared_bytes <= shared_limit) {
            kernel = tiles[i];
            return true;
        }
    }
    for (int32_t const i : {0, count - 1}) {
        if (tiles[i].shared_bytes <= shared_limit) {
            kernel = tiles[i];
            return true;
        }
    }
    return false;
}

template <int kHeadDim, Element kInput, Element kProbability, Element kOutput>
bool pick_bias(VariantKey const& key, int32_t limit, Kernel& kernel) {
    return key.has_bias ? pick_tile<kHeadDim, kInput, kProbability, kOutput, true>(key, limit, kernel)
                        : pick_tile<kHeadDim, kInput, kProbability, kOutput, false>(key, limit, kernel);
}

template <int kHeadDim, Element kInput, Element kProbability>
bool pick_output(VariantKey const& key, int32_t limit, Kernel& kernel) {
    return key.output == Element::kInt8 ? pick_bias<kHeadDim, kInput, kProbability, Element::kInt8>(key, limit, kernel)
                                        : pick_bias<kHeadDim, kInput, kProbability, Element::kHalf>(key, limit, kernel);
}

template <int kHeadDim>
bool pick_input(VariantKey const& key, int32_t limit, Kernel& kernel) {
    if (key.input == Element::kHalf) {
        return pick_output<kHeadDim, Element::kHalf, Element::kHalf>(key, limit, kernel);
    }
    return key.probability == Element::kInt8
               ? pick_output<kHeadDim, Element::kInt8, Element::kInt8>(key, limit, kernel)
               : pick_output<kHeadDim, Element::kInt8, Element::kHalf>(key, limit, kernel);
}

}  // namespace

bool has_head_dim(int32_t head_dim) {
#define VITC_IS(dim) \
    if (head_dim == dim) return true;
    VITC_HEAD_DIMS(VITC_IS)
#undef VITC_IS
    return false;
}

bool find_kernel(VariantKey const& key, int32_t shared_limit, Kernel& kernel, std::string& error) {
    bool found = false;
#define VITC_PICK(dim) \
    if (key.head_dim == dim) found = pick_input<dim>(key, shared_limit, kernel);
    VITC_HEAD_DIMS(VITC_PICK)
#undef VITC_PICK
    if (!found) {
        error = has_head_dim(key.head_dim)
                    ? "no tile of head_dim " + std::to_string(key.head_dim) + " fits into the device's " +
                          std::to_string(shared_limit) + " bytes of shared memory for a block"
                    : "this build has no kernel for head_dim " + std::to_string(key.head_dim) +
                          ": add it to VITC_HEAD_DIMS and build the plugin again";
    }
    return found;
}

cudaError_t prepare(Kernel const& kernel) {
    return cudaFuncSetAttribute(reinterpret_cast<void const*>(kernel.function), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                kernel.shared_bytes);
}

cudaError_t launch(Kernel const& kernel, AttentionParams const& params, cudaStream_t stream) {
    int64_t const query_tiles = (params.queries + kernel.query_rows - 1) / kernel.query_rows;
    int64_t const blocks = query_tiles * params.heads * params.batch;
    AttentionParams copy = params;
    void* arguments[] = {&copy};
    return cudaLaunchKernel(reinterpret_cast<void const*>(kernel.function), dim3(static_cast<unsigned>(blocks)),
                            dim3(static_cast<unsigned>(kernel.threads)), arguments,
                            static_cast<size_t>(kernel.shared_bytes), stream);
}

}  // namespace vitc
