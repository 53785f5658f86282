"""What the fuzzers start from: small, valid, and made here."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from vitc.bundle import BundleContents, Dim, Golden, TensorInfo, VersionRange


def small_model() -> onnx.ModelProto:
    """x [batch, 4] -> y [batch, 3]: a product, a bias, a softmax; opset 20."""
    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array(rng.standard_normal((4, 3)).astype(np.float32), "w")
    bias = numpy_helper.from_array(np.ones(3, np.float32), "b")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["xw"]),
        helper.make_node("Add", ["xw", "b"], ["sum"]),
        helper.make_node("Softmax", ["sum"], ["y"], axis=-1),
    ]
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", s]) for n, s in (("x", 4), ("y", 3))]
    graph = helper.make_graph(nodes, "small", ports[:1], ports[1:], [weight, bias])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def bundle_contents() -> BundleContents:
    """A bundle of `small_model` with one golden pair, right to the last bit or two."""
    x = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
    model = small_model()
    weight, bias = (numpy_helper.to_array(tensor) for tensor in model.graph.initializer)
    power = np.exp(x @ weight + bias)
    return BundleContents(
        model=model.SerializeToString(),
        pipeline="drop-noops",
        target={"name": "cpu"},
        inputs=(TensorInfo("x", "float32", ("batch", 4), {"mean": [0.5], "std": [0.25]}),),
        outputs=(TensorInfo("y", "float32", ("batch", 3)),),
        structure={"kind": "dict", "items": {"logits": {"kind": "leaf", "name": "y"}}},
        dims={"batch": Dim(1, 8)},
        tensorrt=VersionRange("10.3", "12"),
        golden=(Golden({"x": x}, {"y": power / power.sum(-1, keepdims=True)}),),
        calibration={"ranges": {"blocks.0.norm1": 4.5}},
        plugin={"CMakeLists.txt": b"project(plugin)\n"},
    )
