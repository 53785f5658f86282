"""A small bundle's contents, shared by the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from vitc.bundle import BundleContents, Dim, Golden, TensorInfo, VersionRange


def doubling_model() -> onnx.ModelProto:
    """x [batch, 4] -> y = x * w, with w = 2."""
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["y"])],
        "doubling",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(np.full(4, 2.0, np.float32), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


@pytest.fixture
def contents() -> BundleContents:
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    return BundleContents(
        model=doubling_model().SerializeToString(),
        pipeline="tile-attention,quantize-int8{calibrator=mse}",
        target={"name": "orin", "sm_count": 16},
        inputs=(TensorInfo("x", "float32", ("batch", 4), {"mean": [0.5], "std": [0.25]}),),
        outputs=(TensorInfo("y", "float32", ("batch", 4)),),
        structure={"kind": "dict", "items": {"logits": {"kind": "leaf", "name": "y"}}},
        dims={"batch": Dim(1, 8)},
        tensorrt=VersionRange("10.3", "12"),
        golden=(Golden({"x": x}, {"y": 2 * x}),),
        calibration={"ranges": {"blocks.0.norm1": 4.5}},
        plugin={"CMakeLists.txt": b"project(plugin)\n", "src/attention.cu": b"// kernel\n"},
    )


@pytest.fixture
def external(tmp_path: Path, contents: BundleContents) -> BundleContents:
    """The same, with its weights in a file of their own."""
    from dataclasses import replace

    path = tmp_path / "external" / "model.onnx"
    path.parent.mkdir()
    onnx.save_model(
        doubling_model(), str(path), save_as_external_data=True, location="model.onnx.data", size_threshold=0
    )
    return replace(contents, model=path, external_data={"model.onnx.data": path.with_name("model.onnx.data")})
