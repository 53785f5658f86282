"""The body of vitc::VitAttention in standard operators, run by a CPU engine, against exact attention."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from vitc.errors import BuildError
from vitc.kernels import error_model
from vitc.kernels.fields import AttentionFields
from vitc.lowering.cpu import open_engine
from vitc.lowering.onnx.functions import Signature, attention_function

FACTORS = (0.25, 1.0, 2.5, 0.5, 3.0, 1.0, 0.75, 1.0, 1.25)


def model_of(fields: AttentionFields, shapes: dict[str, tuple[int, ...]], out_type: torch.dtype) -> onnx.ModelProto:
    attributes = {"plugin_namespace": "vitc", "plugin_version": "1", **fields.to_attributes()}
    kind = {torch.float32: TensorProto.FLOAT, torch.float16: TensorProto.FLOAT16}[out_type]
    graph = helper.make_graph(
        [helper.make_node("VitAttention", list(shapes), ["y"], domain="vitc", **attributes)],
        "attention",
        [helper.make_tensor_value_info(name, TensorProto.INT8, shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info("y", kind, (2, 17, 96))],
    )
    signature = Signature(
        fields.layout, False, False, True, out_type, None, by_head=fields.by_head, causal=bool(fields.causal)
    )
    model = helper.make_model(
        graph,
        functions=[attention_function(signature, "", 20)],
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("vitc", 1)],
        ir_version=10,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("layout", ["packed", "bhnd"])
def test_scales_by_head_and_causality(layout: str, causal: int) -> None:
    fields = AttentionFields(layout, 3, 32, 0.2, 0, 64, 64, "fp16", 0.02, 0.025, 0.03, 0.0, FACTORS, causal)
    shapes = {"packed": {"qkv": (2, 17, 288)}, "bhnd": dict.fromkeys("qkv", (2, 3, 17, 32))}[layout]
    rng = np.random.default_rng(0)
    feeds = {name: rng.integers(-128, 128, shape).astype(np.int8) for name, shape in shapes.items()}
    model = model_of(fields, shapes, torch.float32)
    for engine in ("onnxruntime", "openvino"):
        out = open_engine(model.SerializeToString(), engine).run(feeds)["y"]
        np.testing.assert_allclose(out, error_model.exact(fields, list(feeds.values())), atol=1e-4)


@pytest.mark.parametrize("causal", [0, 1])
def test_tensorrt_hands_scales_by_head_to_the_plugin(causal: int) -> None:
    """Its parser passes a list of floats on: the plugin refuses anything but three a head."""
    pytest.importorskip("tensorrt_rtx")
    from vitc.lowering.tensorrt.engine import build_engine
    from vitc.lowering.tensorrt.kinds import Kind

    fields = AttentionFields("packed", 3, 32, 0.2, 0, 64, 64, "int8", 0.02, 0.025, 0.03, 0.0, FACTORS, causal)
    model = model_of(fields, {"qkv": (2, 17, 288)}, torch.float16)
    assert len(build_engine(model.SerializeToString(), capability="SM86").layers.of(Kind.PLUGIN)) == 1
    wrong = next(a for a in model.graph.node[0].attribute if a.name == "head_scales")
    del wrong.floats[-1]
    with pytest.raises(BuildError):
        build_engine(model.SerializeToString(), capability="SM86")
