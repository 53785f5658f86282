"""The rewrites of the ONNX file for the CPU engines: what changes, how often, and what must not."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from small_models import WIDTH, Graph, block

from vitc.lowering.cpu import machine, open_engine, prepare
from vitc.lowering.cpu.attention import use_multi_head_attention
from vitc.lowering.cpu.quantization import fold_weights, shift_to_unsigned

RNG = np.random.default_rng(0)


def parsed(model: bytes) -> onnx.ModelProto:
    return onnx.load_model_from_string(model)


def ops(proto: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in proto.graph.node)


def linear() -> Graph:
    """x -> Q -> DQ -> MatMul with an int8 weight, per output channel -> d."""
    g = Graph()
    x = g.dequantize(g.quantize("x", 0.05), 0.05)
    weight = g.const(RNG.integers(-127, 128, (WIDTH, 6)), "int8")
    scales = g.const(RNG.uniform(0.01, 0.02, 6))
    g.op("MatMul", [x, g.op("DequantizeLinear", [weight, scales, g.const(np.zeros(6), "int8")], axis=1)])
    return g


def linear_model() -> bytes:
    g = linear()
    return g.model({"x": ["batch", WIDTH]}, g.nodes[-1].output[0], ["batch", 6])


def zero_points(proto: onnx.ModelProto, kind: str) -> list[tuple[str, int]]:
    tensors = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    found = [tensors[n.input[2]] for n in proto.graph.node if n.op_type == kind and len(n.input) > 2]
    return [(str(zero.dtype), int(zero.flat[0])) for zero in found]


def test_activations_are_shifted_and_weights_are_not() -> None:
    proto = parsed(linear_model())
    assert shift_to_unsigned(proto) == 1
    assert zero_points(proto, "QuantizeLinear") == [("uint8", 128)]
    assert sorted(zero_points(proto, "DequantizeLinear")) == [("int8", 0), ("uint8", 128)]
    onnx.checker.check_model(proto)


def test_a_shift_changes_no_number() -> None:
    model = linear_model()
    proto = parsed(model)
    shift_to_unsigned(proto)
    # Up to and beyond the range, so that saturation is compared too.
    x = RNG.uniform(-9, 9, (20, WIDTH)).astype(np.float32)
    want = ReferenceEvaluator(parsed(model)).run(None, {"x": x})[0]
    np.testing.assert_array_equal(ReferenceEvaluator(proto).run(None, {"x": x})[0], want)


def test_integers_that_only_move_are_followed() -> None:
    g = Graph()
    moved = g.op("Transpose", [g.op("Reshape", [g.quantize("x", 0.1), g.const([0, 3, -1], "int64")])], perm=[0, 2, 1])
    model = parsed(g.model({"x": ["batch", 6]}, g.dequantize(moved, 0.1), ["batch", 2, 3]))
    assert shift_to_unsigned(model) == 1
    assert zero_points(model, "DequantizeLinear") == [("uint8", 128)]


@pytest.mark.parametrize("reader", ["cast", "per-channel", "output"])
def test_integers_somebody_looks_at_stay_signed(reader: str) -> None:
    g = Graph()
    q = g.quantize("x", 0.1)
    out = g.dequantize(q, 0.1)
    if reader == "cast":
        out = g.op("Add", [out, g.op("Cast", [q], to=onnx.TensorProto.FLOAT)])
    elif reader == "per-channel":
        scales = g.const([0.1, 0.2, 0.3])
        out = g.op("Add", [out, g.op("DequantizeLinear", [q, scales], axis=1)])
    model = parsed(g.model({"x": ["batch", 3]}, out, ["batch", 3]))
    if reader == "output":
        model.graph.output.append(onnx.helper.make_tensor_value_info(q, onnx.TensorProto.INT8, ["batch", 3]))
    assert shift_to_unsigned(model) == 0
    assert zero_points(model, "QuantizeLinear") == [("int8", 0)]


def test_folded_weights_are_the_same_numbers() -> None:
    model = linear_model()
    proto = parsed(model)
    assert fold_weights(proto) == 1
    assert ops(proto)["DequantizeLinear"] == 1
    assert not [t for t in proto.graph.initializer if numpy_helper.to_array(t).ndim == 2 and t.data_type == 3]
    x = RNG.normal(size=(4, WIDTH)).astype(np.float32)
    want = ReferenceEvaluator(parsed(model)).run(None, {"x": x})[0]
    np.testing.assert_allclose(ReferenceEvaluator(proto).run(None, {"x": x})[0], want, rtol=1e-6, atol=1e-6)


def test_attention_is_fused_where_a_fused_form_exists() -> None:
    proto = parsed(block())
    assert use_multi_head_attention(proto) == 1
    assert ops(proto) == Counter(MatMul=2, Split=1, MultiHeadAttention=1, Add=1, Identity=1)
    quantized = parsed(block(attention_scale=0.03))
    assert use_multi_head_attention(quantized) == 1
    # Its three inputs are made real on the way in, its output rounded on the way out.
    assert ops(quantized) == Counter(
        MatMul=2, QuantizeLinear=2, Split=1, DequantizeLinear=4, MultiHeadAttention=1, Add=1, Identity=1
    )


def test_a_bias_or_heads_first_keep_the_function() -> None:
    g = Graph()
    out = g.attention(["q", "k", "v"], layout="bhnd")
    dims: list[int | str] = ["batch", 3, 5, 8]
    proto = parsed(g.model({"q": dims, "k": dims, "v": dims}, out, ["batch", 5, WIDTH]))
    assert use_multi_head_attention(proto) == 0
    g = Graph()
    out = g.attention(["x", g.const(np.zeros((1, 3, 5, 5)))], has_bias=True)
    proto = parsed(g.model({"x": ["batch", 5, 3 * WIDTH]}, out, ["batch", 5, WIDTH]))
    assert use_multi_head_attention(proto) == 0


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_no_function_and_no_fp16_is_left(engine: str, dtype: str) -> None:
    proto = prepare.prepare(parsed(block(dtype=dtype, attention_scale=0.03)), engine)
    assert not proto.functions
    assert not [n.op_type for n in proto.graph.node if n.domain == "vitc"]
    halves = [t.name for t in proto.graph.initializer if t.data_type == onnx.TensorProto.FLOAT16]
    assert halves == []
    assert all(dtype == "uint8" for dtype, _ in zero_points(proto, "QuantizeLinear"))


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_int8_products_do_not_saturate(engine: str) -> None:
    """Large weights under large activations: AVX2's 16-bit sums would lose nearly all of this product."""
    g = Graph()
    x = g.dequantize(g.quantize("x", 1 / 127), 1 / 127)
    values = np.full((768, 64), 127)
    values[:, ::2] *= -1
    weight = g.op("DequantizeLinear", [g.const(values, "int8"), g.const(np.full(64, 1 / 127))], axis=1)
    model = g.model({"x": ["batch", 768]}, g.op("MatMul", [x, weight]), ["batch", 64])
    feed = np.ones((5, 768), np.float32)
    got = open_engine(model, engine, threads=1).run({"x": feed})["y"]
    np.testing.assert_allclose(got, feed @ (values / 127), rtol=1e-4)


def test_reading_the_processor(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor : 0\nflags\t\t: fpu avx2 avx512_vnni\nprocessor : 1\nflags : fpu\n")
    assert machine.cpu_flags(info) == {"fpu", "avx2", "avx512_vnni"}
    assert machine.int8_dot(machine.cpu_flags(info)) == "avx512_vnni"
    arm = tmp_path / "arm"
    arm.write_text("Features : fp asimd asimddp\n")
    assert machine.int8_dot(machine.cpu_flags(arm)) == "asimddp"
    assert machine.int8_dot(frozenset({"avx2"})) is None
    assert machine.cpu_flags(tmp_path / "nowhere") == frozenset()


def test_only_x86_without_vnni_saturates(monkeypatch: pytest.MonkeyPatch) -> None:
    for processor, dot, expected in (
        ("x86_64", None, True),
        ("AMD64", "avx_vnni", False),
        ("aarch64", None, False),
    ):
        monkeypatch.setattr(machine.platform, "machine", lambda processor=processor: processor)
        monkeypatch.setattr(machine, "int8_dot", lambda dot=dot: dot)
        assert machine.int8_saturates() is expected
