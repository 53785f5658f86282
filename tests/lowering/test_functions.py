"""The body of vitc::VitAttention in standard operators, run by a CPU engine, against exact attention."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from vitc.kernels import error_model
from vitc.kernels.fields import AttentionFields
from vitc.lowering.cpu import open_engine
from vitc.lowering.onnx.functions import Signature, attention_function


@pytest.mark.parametrize("layout", ["packed", "bhnd"])
def test_scales_by_head(layout: str) -> None:
    factors = (0.25, 1.0, 2.5, 0.5, 3.0, 1.0, 0.75, 1.0, 1.25)
    fields = AttentionFields(layout, 3, 32, 0.2, 0, 64, 64, "fp16", 0.02, 0.025, 0.03, 0.0, factors)
    shapes = {"packed": {"qkv": (2, 17, 288)}, "bhnd": dict.fromkeys("qkv", (2, 3, 17, 32))}[layout]
    rng = np.random.default_rng(0)
    feeds = {name: rng.integers(-128, 128, shape).astype(np.int8) for name, shape in shapes.items()}

    attributes = {"plugin_namespace": "vitc", "plugin_version": "1", **fields.to_attributes()}
    graph = helper.make_graph(
        [helper.make_node("VitAttention", list(shapes), ["y"], domain="vitc", **attributes)],
        "attention",
        [helper.make_tensor_value_info(name, TensorProto.INT8, shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (2, 17, 96))],
    )
    signature = Signature(layout, False, False, True, torch.float32, None, by_head=True)
    model = helper.make_model(
        graph,
        functions=[attention_function(signature, "", 20)],
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("vitc", 1)],
        ir_version=10,
    )
    onnx.checker.check_model(model, full_check=True)
    for engine in ("onnxruntime", "openvino"):
        out = open_engine(model.SerializeToString(), engine).run(feeds)["y"]
        np.testing.assert_allclose(out, error_model.exact(fields, list(feeds.values())), atol=1e-4)
