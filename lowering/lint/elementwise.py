"""What stands between the products: residual adds, LayerNorm, GELU, biases."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from vitc.lowering.lint.gemm import is_product
from vitc.lowering.lint.graph import LintGraph
from vitc.lowering.lint.operands import asymmetric, operand

#: Operators that compute in floating point whatever they are given.
_FLOAT_OPS = frozenset(
    {
        "LayerNormalization",
        "RMSNormalization",
        "GroupNormalization",
        "InstanceNormalization",
        "Softmax",
        "Gelu",
        "Erf",
        "Tanh",
        "Sigmoid",
    }
)
_TAKES_INT8 = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose", "VitAttention"})

Found = tuple[str, onnx.NodeProto]


def findings(graph: LintGraph, attention_nodes: frozenset[str]) -> Iterator[Found]:
    """(rule id, node) for each situation. `attention_nodes`: names of nodes inside of attention, which has its own
    rules."""
    for node in graph.nodes:
        if node.name in attention_nodes:
            continue
        if node.op_type == "Add":
            yield from _add(graph, node)
        elif node.op_type in _FLOAT_OPS and operand(graph, node.input[0]) is not None:
            yield "float-operator-quantized", node
        elif node.op_type == "Sqrt":
            yield from _norm(graph, node)
        elif node.op_type == "DequantizeLinear":
            yield from _dequantize(graph, node)
        elif node.op_type == "Concat":
            yield from _concat(graph, node)


def _add(graph: LintGraph, node: onnx.NodeProto) -> Iterator[Found]:
    if any(name in graph.constants for name in node.input):
        for name in node.input:
            one = operand(graph, name)
            if one is None or one.weight:
                continue
            quantize = graph.producer(one.dequantize.input[0])
            made = graph.producer(quantize.input[0]) if quantize is not None else None
            if made is not None and is_product(made):
                yield "product-quantized", node
    elif any(operand(graph, name) is not None for name in node.input):
        yield "residual-quantized", node


def _norm(graph: LintGraph, root: onnx.NodeProto) -> Iterator[Found]:
    """√(mean((x − mean(x))²) + ε), found at the root."""
    shifted = graph.producer(root.input[0])
    if shifted is None or shifted.op_type != "Add":
        return
    variance = next((graph.producer(i) for i in shifted.input if i not in graph.constants), None)
    squares = graph.origin(variance.input[0]) if variance is not None and variance.op_type == "ReduceMean" else None
    if squares is None or squares.op_type not in ("Pow", "Mul"):
        return
    centred = graph.origin(squares.input[0])
    if centred is not None and centred.op_type == "Sub":
        half = graph.dtype(squares.output[0]) == "float16"
        yield ("norm-decomposed-half" if half else "norm-decomposed"), root


def _dequantize(graph: LintGraph, node: onnx.NodeProto) -> Iterator[Found]:
    if graph.dtype(node.input[0]) == "int32":
        yield "bias-int32", node
        return
    readers = list(graph.readers_past(node.output[0]))
    products = [reader for reader in readers if reader.op_type in _TAKES_INT8]
    if asymmetric(graph, node) and not products:
        yield "asymmetric", node
    if node.output[0] in graph.constants and readers and not products:
        yield "weight-quantized-in-vain", node


def _concat(graph: LintGraph, node: onnx.NodeProto) -> Iterator[Found]:
    operands = [operand(graph, name) for name in node.input]
    scales = {one.dequantize.input[1] for one in operands if one is not None and not one.weight}
    values = {
        float(value.flat[0]) for scale in scales if (value := graph.index.constant(scale)) is not None and value.size
    }
    if len(values) > 1:
        yield "scales-differ-where-tensors-meet", node
