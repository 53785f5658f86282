"""How one operand of a product is quantized."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from vitc.lowering.gate.limits import MOVES
from vitc.lowering.lint.graph import MOVEMENT, LintGraph, attributes


@dataclass(frozen=True)
class Operand:
    """An operand behind a DequantizeLinear. `axis`: of its scales, in the operand's own dimensions; None: one scale, or
    an axis that movement hides. `stored`: the integers are an initializer."""

    dequantize: onnx.NodeProto
    weight: bool
    stored: bool
    per_channel: bool
    axis: int | None
    blocked: bool
    asymmetric: bool
    scale_dtype: str


def operand(graph: LintGraph, name: str) -> Operand | None:
    """The operand `name`, looked at past movement; None where it is not dequantized."""
    moves: list[onnx.NodeProto] = []
    node = graph.producer(name)
    while node is not None and node.op_type in MOVEMENT and len(moves) < MOVES:
        moves.append(node)
        node = graph.producer(node.input[0])
    if node is None or node.op_type != "DequantizeLinear":
        return None
    scale = graph.index.constant(node.input[1])
    size = 1 if scale is None else scale.size
    return Operand(
        dequantize=node,
        weight=node.output[0] in graph.constants,
        stored=node.input[0] in graph.index.initializers,
        per_channel=size > 1,
        axis=_axis(graph, node, moves) if size > 1 else None,
        blocked=scale is not None and scale.ndim > 1,
        asymmetric=asymmetric(graph, node),
        scale_dtype=graph.dtype(node.input[1]),
    )


def asymmetric(graph: LintGraph, node: onnx.NodeProto) -> bool:
    """Whether a Q or DQ has a zero point that is not 0."""
    if len(node.input) < 3 or not node.input[2]:
        return False
    zero = graph.index.constant(node.input[2])
    return zero is not None and bool(zero.any())


def _axis(graph: LintGraph, dequantize: onnx.NodeProto, moves: list[onnx.NodeProto]) -> int | None:
    rank = graph.rank(dequantize.input[0])
    if rank is None:
        return None
    if not rank:
        return None
    axis = int(attributes(dequantize).get("axis", 1)) % rank
    for move in reversed(moves):
        if move.op_type == "Transpose":
            order = list(attributes(move).get("perm", range(rank)[::-1]))
            if axis not in order:
                return None
            axis = order.index(axis)
        elif move.op_type not in ("Cast", "Identity"):
            return None
    return axis
