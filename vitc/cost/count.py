"""What a graph costs: one record for each operator that moves or computes data, for the cost model and the report."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from vitc.cost import OpCost
from vitc.graph.attention_call import AttentionCall, is_attention
from vitc.graph.movement import MOVEMENT, SPLITTING
from vitc.graph.nodes import is_constant, is_tensor, module_path, val
from vitc.graph.printer import op_name
from vitc.graph.program import Program

aten, ops = torch.ops.aten, torch.ops.vitc
_GEMM = {aten.linear.default, aten.matmul.default, aten.bmm.default, aten.addmm.default}
_CONV = {aten.conv1d.default, aten.conv2d.default, aten.conv3d.default, aten.conv2d.padding}
_NORM = {aten.layer_norm.default, aten.group_norm.default, aten.rms_norm.default, aten.softmax.int}
#: Pointwise operators that engines fuse into the GEMM before them.
_FUSED = {
    aten.gelu.default,
    aten.silu.default,
    aten.relu.default,
    ops.quantize.default,
    ops.dequantize.default,
    aten._to_copy.default,
}


def size_at(size: Any, batch: int) -> int:
    """A size with the batch put in."""
    if isinstance(size, int):
        return size
    expression = size.node.expr
    return int(expression.subs(dict.fromkeys(expression.free_symbols, batch)))


def shape_at(node: Node, batch: int) -> tuple[int, ...]:
    return tuple(size_at(s, batch) for s in val(node).shape)


def op_costs(program: Program, batch: int = 1) -> list[OpCost]:
    """The records of a graph, in order, for one batch size. A multiply-add counts as two operations."""
    return [record for _, record in costed_nodes(program, batch)]


def costed_nodes(program: Program, batch: int = 1) -> list[tuple[Node, OpCost]]:
    """The records with the nodes they are of."""
    return [
        (node, _record(node, batch))
        for node in program.graph.nodes
        if node.op == "call_function" and is_tensor(node) and not _free(node)
    ]


def flops(program: Program, batch: int = 1) -> int:
    """Floating-point (or integer) operations of one forward pass."""
    return sum(int(r.flops) for r in op_costs(program, batch))


def _free(node: Node) -> bool:
    """Views cost nothing; a dequantized weight is read as INT8."""
    if node.target in MOVEMENT | SPLITTING or op_name(node) == "getitem":
        return True
    return node.target is ops.dequantize.default and is_constant(node.args[0])


def _record(node: Node, batch: int) -> OpCost:
    weights: list[Node] = []
    activations: list[Node] = []
    for operand in node.all_input_nodes:
        if is_tensor(operand):
            (weights if _weight(operand) else activations).append(operand)
    kind, work, shape = _work(node, batch)
    source = activations[0] if activations else None
    fused = node.target in _FUSED and source is not None and source.op == "call_function" and not _free(source)
    return OpCost(
        name=node.name,
        module=module_path(node),
        kind=kind,  # type: ignore[arg-type]
        dtype=_dtype(node, activations),  # type: ignore[arg-type]
        flops=work,
        bytes_read=0 if fused else sum(_bytes(a, batch) for a in activations),
        bytes_written=_bytes(node, batch),
        weight_bytes=sum(_bytes(w, batch) for w in weights),
        shape=shape,  # type: ignore[arg-type]
        fused_into_previous=fused,
    )


def _weight(node: Node) -> bool:
    return is_constant(node) or (node.target is ops.dequantize.default and is_constant(node.args[0]))


def _stored(node: Node) -> Node:
    """The tensor that is read from memory: behind a dequantize, the INT8 one."""
    return node.args[0] if node.target is ops.dequantize.default else node  # type: ignore[return-value]


def _bytes(node: Node, batch: int) -> int:
    node = _stored(node)
    count = 1
    for size in shape_at(node, batch):
        count *= size
    return count * val(node).dtype.itemsize


def _dtype(node: Node, activations: list[Node]) -> str:
    if is_attention(node) and (call := AttentionCall.of(node)).int8:
        return "int8" if call.pv == "int8" else "int8+fp16"
    if node.target in _GEMM | _CONV and any(a.target is ops.dequantize.default for a in activations):
        return "int8"
    return "fp16" if val(node).dtype == torch.float16 else "fp32"


def _work(node: Node, batch: int) -> tuple[str, int, tuple[int, ...] | None]:
    """(kind, operations, shape as the cost model wants it)."""
    out = shape_at(node, batch)
    count = 1
    for size in out:
        count *= size
    if node.target in _GEMM:
        inner = shape_at(node.args[0], batch)[-1]  # type: ignore[arg-type]
        lead = 1 if node.target is aten.linear.default else count // (out[-1] * out[-2])
        return "gemm", 2 * count * inner, (lead, count // out[-1] // lead, out[-1], inner)
    if node.target in _CONV:
        weight = shape_at(node.args[1], batch)  # type: ignore[arg-type]
        inner = 1
        for size in weight[1:]:
            inner *= size
        return "conv", 2 * count * inner, (1, count // weight[0], weight[0], inner)
    if node.target is aten.scaled_dot_product_attention.default and len(out) == 4:
        m = shape_at(node.args[1], batch)[2]  # type: ignore[arg-type]
        qk_dim = shape_at(node.args[0], batch)[3]  # type: ignore[arg-type]
        return "attention", 2 * out[0] * out[1] * out[2] * m * (out[3] + qk_dim), (out[0] * out[1], out[2], m, out[3])
    if is_attention(node):
        call = AttentionCall.of(node)
        n = out[1]
        m = shape_at(call.k or call.q, batch)[2 if call.layout == "bhnd" else 1]
        return "attention", 4 * out[0] * n * m * call.width, (out[0] * call.num_heads, n, m, call.head_dim)
    return ("norm" if node.target in _NORM else "elementwise"), count, None
