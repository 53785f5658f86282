"""Attention, as vitc::VitAttention or spelled out: which rule each falls under."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx

from vitc.lowering.gate.limits import MOVES
from vitc.lowering.lint.gemm import is_product
from vitc.lowering.lint.graph import MOVEMENT, LintGraph, attributes, scale_of
from vitc.lowering.lint.operands import operand

#: What may stand between QKᵀ and softmax.
_ON_THE_WAY = MOVEMENT | {"Mul", "Div", "Add", "Where", "QuantizeLinear", "DequantizeLinear"}
_AFTER_SOFTMAX = MOVEMENT | {"QuantizeLinear", "DequantizeLinear", "Dropout"}


@dataclass(frozen=True)
class Attention:
    """softmax(QKᵀ) V, spelled out."""

    scores: onnx.NodeProto
    softmax: onnx.NodeProto
    mix: onnx.NodeProto
    scores_quantized: bool
    between: tuple[str, ...]
    """Names of the nodes from QKᵀ to softmax."""


def spelled_attentions(graph: LintGraph) -> Iterator[Attention]:
    """Every MatMul → … → Softmax → … → MatMul of two activations each."""
    for node in graph.nodes:
        if node.op_type != "Softmax":
            continue
        path: list[onnx.NodeProto] = []
        scores = _scores(graph, node.input[0], path)
        mix = next((n for n in graph.readers_past(node.output[0], _AFTER_SOFTMAX) if is_product(n)), None)
        if scores is None or mix is None:
            continue
        quantized = any(n.op_type == "QuantizeLinear" for n in path)
        yield Attention(scores, node, mix, quantized, tuple(n.name for n in path))


def _scores(graph: LintGraph, name: str, path: list[onnx.NodeProto]) -> onnx.NodeProto | None:
    """The product of two activations that softmax normalizes, with the nodes on the way."""
    node = graph.producer(name)
    while node is not None and node.op_type in _ON_THE_WAY and len(path) < MOVES:
        path.append(node)
        moving = [i for i in node.input if i and i not in graph.constants]
        # Of a computed bias and the scores, the scores come from a product.
        node = next(
            (n for i in moving if (n := graph.producer(i)) is not None and (n.op_type in _ON_THE_WAY or is_product(n))),
            None,
        )
    if node is None or not is_product(node) or any(i in graph.constants for i in node.input[:2]):
        return None
    return node


def spelled_rule(graph: LintGraph, attention: Attention) -> str:
    scores = [operand(graph, name) is not None for name in attention.scores.input[:2]]
    mix = [operand(graph, name) is not None for name in attention.mix.input[:2]]
    if not all(scores) and not all(mix):
        dtype = graph.dtype(attention.mix.output[0])
        return {"float16": "attention-half", "bfloat16": "attention-bfloat16"}.get(dtype, "attention-float")
    if attention.scores_quantized:
        return "attention-scores-quantized"
    leaves_as_int8 = [n.op_type for n in graph.readers_past(attention.mix.output[0])] == ["QuantizeLinear"]
    return "attention-int8" if all(scores + mix) and leaves_as_int8 else "attention-part-int8"


def is_vit_attention(node: onnx.NodeProto) -> bool:
    return node.op_type == "VitAttention" and node.domain == "vitc" and bool(node.input and node.output)


def vit_attention_rule(graph: LintGraph, node: onnx.NodeProto) -> str:
    given = attributes(node)
    int8_in, int8_out = (scale_of(given, name) > 0 for name in ("q_scale", "out_scale"))
    if "plugin_namespace" not in given:
        if int8_in:
            return "attention-function-int8"
        return "attention-function-half" if graph.dtype(node.input[0]) == "float16" else "attention-function-float"
    dequantized_before = not int8_in and operand(graph, node.input[0]) is not None
    quantized_after = not int8_out and "QuantizeLinear" in {n.op_type for n in graph.readers_past(node.output[0])}
    if dequantized_before and quantized_after:
        return "attention-plugin-sandwich"
    return "attention-plugin" if given.get("layout") == b"packed" else "attention-plugin-layout"
