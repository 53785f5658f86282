"""Against the real TensorRT-RTX, which builds for other devices without a GPU."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from spelled_vit import Spelling, fp16, make_vit

from vitc.errors import BuildError
from vitc.lowering.tensorrt import Engine, Kind, Profile, build_engine

pytest.importorskip("tensorrt_rtx")
BATCHES = Profile(1, 4, 8)


@functools.cache
def built(spelling: Spelling, capability: str = "SM86") -> Engine:
    return build_engine(make_vit(spelling).SerializeToString(), capability=capability, profile=BATCHES)


@pytest.mark.parametrize("capability", ["SM80", "SM86", "SM89", "SM120"])
def test_int8_arrives_on_every_capability(capability: str) -> None:
    engine = built(Spelling(), capability)
    summary = engine.layers.summary()
    assert (summary["plugin"], summary["INT8 GEMM"]) == (2, 2 * 4 + 1)
    assert not {"FP16 GEMM", "FP32 GEMM", "dequantize + FP GEMM", "fused attention"} & set(summary)
    assert engine.layers.under("blocks").of(Kind.REFORMAT) == ()
    assert engine.layers.unscaled_half() == ()
    assert (engine.capability, engine.distribution) == (capability, "tensorrt_rtx")
    assert len(engine.plan) > 900_000  # two blocks' INT8 weights


def test_a_turing_card_has_no_fp32_product() -> None:
    with pytest.raises(BuildError, match=r"1.* for SM75 could not build the engine. .*qkv/MatMul.*FP32 GEMM is not"):
        built(Spelling(), "SM75")
    assert built(Spelling(linear_dtype="float16"), "SM75").layers.summary()["INT8 GEMM"] == 9


def test_the_neighbours_of_the_plugin_are_the_linears() -> None:
    layers = built(Spelling()).layers
    producers = {tensor.name: layer for layer in layers.layers for tensor in layer.outputs}
    for plugin in layers.of(Kind.PLUGIN):
        assert [tensor.dtype for tensor in (*plugin.inputs, *plugin.outputs)] == ["int8", "int8"]
        before = producers[plugin.inputs[0].name]
        (after,) = [
            layer for layer in layers.layers if plugin.outputs[0].name in [tensor.name for tensor in layer.inputs]
        ]
        block = plugin.modules[0]
        assert f"{block}.qkv" in before.modules
        assert (after.kind, after.modules[0]) == (Kind.INT8_GEMM, f"{block}.proj")


def test_a_network_without_int8() -> None:
    summary = built(fp16(int8=False)).layers.summary()
    assert (summary["plugin"], summary["FP16 GEMM"]) == (2, 9)
    assert "INT8 GEMM" not in summary


def test_weights_scaled_along_the_wrong_axis_are_seen() -> None:
    summary = built(Spelling(linear="matmul_wrong_axis")).layers.summary()
    assert summary["dequantize + FP GEMM"] == 8


def test_fp16_scales_leave_the_sums_unscaled() -> None:
    layers = built(fp16()).layers
    assert layers.unscaled_half() == layers.of(Kind.INT8_GEMM)


@pytest.mark.parametrize("layout", ["bnhd", "bhnd"])
def test_separate_q_k_v(layout: Any) -> None:
    layers = built(Spelling(attention=layout, bias="initializer")).layers
    assert layers.summary()["INT8 GEMM"] == 9
    for plugin in layers.of(Kind.PLUGIN):
        assert [tensor.dtype for tensor in plugin.inputs[:3]] == ["int8"] * 3


def test_two_forms_of_the_operator_in_one_model() -> None:
    model = make_vit(Spelling(overloads=True))
    onnx.checker.check_model(model, full_check=True)
    assert len({function.overload for function in model.functions}) == 2
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    image = np.zeros((3, 3, 224, 224), np.float32)
    assert session.run(None, {"image": image})[0].shape == (3, 10)
    outputs = [layer.outputs[0].dtype for layer in built(Spelling(overloads=True)).layers.of(Kind.PLUGIN)]
    assert outputs == ["int8", "float16"]


def test_a_file_with_its_weights_outside(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save_model(make_vit(Spelling()), path, save_as_external_data=True, location="weights", size_threshold=0)
    assert build_engine(path, capability="SM86", profile=BATCHES).layers.summary()["INT8 GEMM"] == 9


class TestRefusals:
    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(BuildError, match=r"there is no ONNX file .*absent.onnx"):
            build_engine(tmp_path / "absent.onnx", capability="SM86")

    def test_not_a_model(self) -> None:
        with pytest.raises(BuildError, match="does not take the ONNX model"):
            build_engine(b"not a model", capability="SM86")

    def test_an_operator_tensorrt_lacks(self) -> None:
        with pytest.raises(BuildError, match=r"does not take the ONNX model. /odd \(StringConcat\)"):
            build_engine(one_node("StringConcat", "odd", ["x", "x"]), capability="SM86")

    def test_fields_the_plugin_refuses_told_once(self) -> None:
        attributes = {"plugin_namespace": "vitc", "plugin_version": "1", "layout": "packed"}
        model = one_node("VitAttention", "attention", ["x"], domain="vitc", **attributes)
        with pytest.raises(BuildError, match=r"/attention \(VitAttention\).*; vitc::VitAttention: .*lacks the fields"):
            build_engine(model, capability="SM86")
        with pytest.raises(BuildError) as error:
            build_engine(one_node("StringConcat", "odd", ["x", "x"]), capability="SM86")
        assert "lacks the fields" not in str(error.value)

    def test_an_unknown_capability(self) -> None:
        with pytest.raises(BuildError, match=r"has no compute capability 'SM87'; it has SM75, SM80, SM86, SM89"):
            build_engine(one_node("Relu", "relu", ["x"]), capability="SM87")

    def test_another_dimension_is_dynamic(self) -> None:
        model = one_node("Relu", "relu", ["x"], shape=["batch", "tokens"])
        with pytest.raises(BuildError, match=r"input 'x' has shape \[-1, -1\]; only its first dimension"):
            build_engine(model, capability="SM86")

    @pytest.mark.parametrize("batches", [(0, 1, 1), (2, 1, 4), (1, 8, 4)])
    def test_batch_sizes_that_do_not_rise(self, batches: tuple[int, int, int]) -> None:
        with pytest.raises(BuildError, match=f"must rise from 1: minimum {batches[0]}, optimum {batches[1]}"):
            Profile(*batches)


def one_node(op_type: str, name: str, inputs: list[str], shape: Any = ("batch", 8), **attributes: Any) -> bytes:
    node = helper.make_node(op_type, inputs, ["y"], name=f"/{name}", **attributes)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)
    graph = helper.make_graph([node], "one", [x], [y])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("vitc", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
