from __future__ import annotations

import pytest

from vitc.lowering.tensorrt.kinds import Kind, kind_of
from vitc.lowering.tensorrt.records import RawLayer, Tensor


def layer(
    type: str,
    name: str = "layer",
    *,
    tactic: str = "",
    reads: str = "float16",
    weights: str | None = None,
    nodes: tuple[str, ...] = (),
) -> RawLayer:
    constants = [Tensor("bias", "float16", (1, 8))]
    if weights:
        constants.append(Tensor("weight", weights, (8, 8)))
    return RawLayer(name, type, tactic, (Tensor("x", reads, (-1, 8)),), tuple(constants), (), nodes)


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (layer("custom_layer"), Kind.PLUGIN),
        (layer("PluginV3"), Kind.PLUGIN),
        (layer("kgen", "_gemm_mha_v2_myl0_8"), Kind.FUSED_ATTENTION),
        (layer("gemm", reads="int8", weights="int8"), Kind.INT8_GEMM),
        (layer("kgen", tactic="sm80_xmma_gemm_i8i8_tn"), Kind.INT8_GEMM),
        (layer("gemm", reads="float16", weights="int8"), Kind.DEQUANTIZED_GEMM),
        (layer("runtime_fusion", "__myl_CastMulFc", reads="int8", weights="int8"), Kind.DEQUANTIZED_GEMM),
        (layer("gemm", weights="float16"), Kind.FP16_GEMM),
        (layer("gemm", reads="float32", weights="float32"), Kind.FP32_GEMM),
        (
            layer("runtime_fusion", "__myl_FcAddCast_myl0_23", weights="float16", reads="float32"),
            Kind.FP16_GEMM,
        ),
        (layer("runtime_fusion", "__myl_FcAdd_myl0_38", weights="float32"), Kind.FP32_GEMM),
        (layer("runtime_fusion", "__myl_CastMulFc_myl0_4", reads="int8"), Kind.DEQUANTIZED_GEMM),
        (layer("kgen", "__myl_ReshMulSum_myl0_17", weights="float16"), Kind.FP16_GEMM),
        (layer("kgen", "__myl_CastMulCastReshMulSum_myl0_19", weights="int8"), Kind.DEQUANTIZED_GEMM),
        (layer("kgen", "__myl_MulSumSubExp_myl0_1", weights="float16"), Kind.OTHER),
        (layer("correlation", reads="int8"), Kind.INT8_CONVOLUTION),
        (layer("CaskConvolution"), Kind.FP_CONVOLUTION),
        (layer("Reformat"), Kind.REFORMAT),
        (layer("kgen", "__myl_CastReplConc_myl0_1"), Kind.REFORMAT),
        (layer("kgen", "__myl_CastMul_myl0_1"), Kind.OTHER),
        (layer("kgen", "__myl_MeanSubMul_myl0_3", nodes=("/norm/LayerNormalization",)), Kind.NORMALISATION),
        (layer("shape_call"), Kind.OTHER),
    ],
)
def test_kinds(given: RawLayer, kind: Kind) -> None:
    assert kind_of(given) is kind
