"""Products with a weight, and convolutions: which rule each falls under."""

from __future__ import annotations

import onnx

from vitc.lowering.gate.limits import MOVES
from vitc.lowering.lint.graph import MOVEMENT, SPLITTING, LintGraph, attributes
from vitc.lowering.lint.operands import Operand, operand

INTEGER_OPS = frozenset(
    {
        "QLinearMatMul", "QLinearConv", "QLinearAdd", "QLinearMul", "QGemm", "MatMulInteger", "ConvInteger",
        "DynamicQuantizeLinear",
        "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "QAttention",
    }
)  # fmt: skip

#: What may stand between the split of QKV and QKᵀ.
_TO_ATTENTION = MOVEMENT | {"Mul", "Div", "QuantizeLinear", "DequantizeLinear"}


def is_product(node: onnx.NodeProto) -> bool:
    return node.op_type in ("MatMul", "Gemm")


def product_rule(graph: LintGraph, node: onnx.NodeProto) -> str:
    """The rule of a MatMul or Gemm, of two activations or with a weight."""
    left, right = operand(graph, node.input[0]), operand(graph, node.input[1])
    if left is None and right is None:
        return {"float16": "gemm-float16", "bfloat16": "gemm-bfloat16"}.get(graph.dtype(node.output[0]), "gemm-float32")
    if left is None or right is None:
        return "gemm-weight-only" if (left or right).weight else "gemm-activation-only"  # type: ignore[union-attr]
    if left.asymmetric or right.asymmetric:
        return "gemm-asymmetric"
    if left.scale_dtype != right.scale_dtype:
        return "gemm-scales-mismatch"
    operands = ((left, _kept_axis(graph, node, 0)), (right, _kept_axis(graph, node, 1)))
    if any(one.per_channel and not one.weight for one, _ in operands):
        return "gemm-activation-per-channel"
    if any(_along_the_sum(one, kept) for one, kept in operands):
        return "gemm-weight-wrong-axis"
    per_channel = [one for one, _ in operands if one.per_channel]
    if any(one.stored for one in per_channel) and _is_split(graph, node):
        return "gemm-split-after"
    if per_channel and left.scale_dtype == "float16":
        return "gemm-half-sums"
    return "gemm-int8"


def _kept_axis(graph: LintGraph, node: onnx.NodeProto, position: int) -> int | None:
    """The axis of an operand that is not summed over and is not a batch: the last of the right one, the last but one of
    the left one."""
    rank = graph.rank(node.input[position])
    if rank is None:
        return None
    transposed = bool(attributes(node).get("transB" if position else "transA", 0))
    return rank - 1 if bool(position) != transposed else rank - 2


def _along_the_sum(one: Operand, kept: int | None) -> bool:
    return one.per_channel and (one.blocked or (one.axis is not None and kept is not None and one.axis != kept))


def _is_split(graph: LintGraph, product: onnx.NodeProto) -> bool:
    """Whether the product, its bias added, becomes [3, B, H, N, D], is taken apart along its first axis, unrounded, and
    goes on into the products of an attention. (Where a plugin reads the parts the weights stay whole.)"""
    name = product.output[0]
    readers = graph.readers(name)
    if len(readers) == 1 and readers[0].op_type == "Add" and any(i in graph.constants for i in readers[0].input):
        name = readers[0].output[0]
    moved: set[str] = set()
    for _ in range(MOVES):
        readers = graph.readers(name)
        if len(readers) != 1 or readers[0].op_type not in MOVEMENT - SPLITTING:
            break
        moved.add(readers[0].op_type)
        name = readers[0].output[0]
    if not {"Reshape", "Transpose"} <= moved or not any(_cuts_first_axis(graph, node) for node in readers):
        return False
    return any(_of_activations(graph, node) for node in graph.readers_past(name, _TO_ATTENTION) if is_product(node))


def _of_activations(graph: LintGraph, product: onnx.NodeProto) -> bool:
    return not any(name in graph.constants for name in product.input[:2])


def _cuts_first_axis(graph: LintGraph, node: onnx.NodeProto) -> bool:
    if node.op_type in ("Split", "Gather"):
        return bool(attributes(node).get("axis", 0) == 0)
    axes = graph.index.constant(node.input[3]) if node.op_type == "Slice" and len(node.input) > 3 else None
    return axes is not None and axes.tolist() == [0]


def convolution_rule(graph: LintGraph, node: onnx.NodeProto) -> str:
    image, kernel = operand(graph, node.input[0]), operand(graph, node.input[1])
    if image is None and kernel is None:
        return "conv-float"
    if any(one is not None and one.asymmetric for one in (image, kernel)):
        return "conv-asymmetric"
    if image is None or kernel is None or image.per_channel or (kernel.per_channel and kernel.axis != 0):
        return "conv-part-int8"
    return "conv-int8"
