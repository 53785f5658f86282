// One variant of the kernel as a cubin, with a name that cuModuleGetFunction finds. build.py sets the constants.
#include "attention.cuh"

namespace vitc {

using Variant = AttentionConfig<VITC_HEAD_DIM, Element::VITC_INPUT, Element::VITC_PROBABILITY, Element::VITC_OUTPUT,
                                VITC_HAS_BIAS, VITC_QUERY_ROWS, VITC_KEY_ROWS, VITC_WARPS>;

}  // namespace vitc

extern "C" VITC_KERNEL(vitc::Variant::kThreads, vitc::kBlocks<vitc::Variant>) vitc_attention(
    VITC_PARAMETER vitc::AttentionParams const params) {
    vitc::AttentionBlock<vitc::Variant> block(params);
    block.run();
}
