"""A real TensorRT takes the whole INT8 ViT-B/16: what is claimed about the engine is read off its own layer log."""

from __future__ import annotations

import pytest
import torch

import vitc
from vitc.lowering.tensorrt.kinds import Kind

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed: nothing is proved about TensorRT here")
timm = pytest.importorskip("timm")


@pytest.fixture(scope="module")
def plan() -> vitc.Plan:
    torch.manual_seed(0)
    model = timm.create_model("vit_base_patch16_224", pretrained=False).eval()
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    return vitc.plan(model, "orin", calibration=images)


def test_no_residual_add_is_quantized(plan: vitc.Plan) -> None:
    producers = {out: node.op_type for node in plan.onnx.proto.graph.node for out in node.output}
    adds = [n for n in plan.onnx.proto.graph.node if n.op_type == "Add" and all(i in producers for i in n.input)]
    assert len(adds) >= 24
    assert all(producers[i] != "DequantizeLinear" for node in adds for i in node.input)


@pytest.mark.slow
@pytest.mark.parametrize("capability", ["SM86", "SM80", "SM89"])
def test_vit_b_in_int8(plan: vitc.Plan, capability: str) -> None:
    layers = plan.prove(capability).layers
    assert len(layers.of(Kind.PLUGIN)) == 12
    assert len(layers.of(Kind.INT8_GEMM)) >= 48
    assert not layers.of(Kind.DEQUANTIZED_GEMM)
    assert not layers.unscaled_half()
    for block in range(12):
        assert not layers.under(f"blocks.{block}").of(Kind.REFORMAT)
        assert len(layers.under(f"blocks.{block}").of(Kind.PLUGIN)) == 1
