"""Tensors out of nothing, and arithmetic on sizes."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch.fx import Node

from vitc.graph.nodes import is_tensor, val
from vitc.lowering.onnx.emitter import Emitter, emits

aten, prims = torch.ops.aten, torch.ops.prims


@emits(aten.sym_size.int)
def _sym_size(e: Emitter, node: Node, x: Any, dim: int) -> str:
    axis = int(dim) % len(val(x).shape)
    return e.op("Shape", [e.value(x)], start=axis, end=axis + 1)


_SYMBOLIC = {operator.mul: "Mul", operator.add: "Add", operator.sub: "Sub", torch.sym_max: "Max", torch.sym_min: "Min"}


def _sizes(e: Emitter, sizes: tuple[Any, ...]) -> list[str]:
    return [s if isinstance(s, str) else e.ints([s]) for s in map(e.size, sizes)]


@emits(*_SYMBOLIC)
def _symbolic(e: Emitter, node: Node, *sizes: Any) -> str:
    return e.op(_SYMBOLIC[node.target], _sizes(e, sizes))  # type: ignore[index]


@emits(operator.neg)
def _negative(e: Emitter, node: Node, *sizes: Any) -> str:
    return e.op("Neg", _sizes(e, sizes))


@emits(operator.mod)
def _modulo(e: Emitter, node: Node, *sizes: Any) -> str:
    return e.op("Mod", _sizes(e, sizes))


@emits(operator.floordiv)
def _floor_division(e: Emitter, node: Node, *sizes: Any) -> str:
    """Through the remainder: ONNX's quotient is cut off, which for −(−n // 2) is not the floor."""
    a, b = _sizes(e, sizes)
    return e.op("Div", [e.op("Sub", [a, e.op("Mod", [a, b])]), b])


_ONES = {aten.ones.default, aten.new_ones.default, aten.ones_like.default}


def _expanded(e: Emitter, node: Node, number: Any, sizes: str) -> str:
    return e.op("Expand", [e.operand(number, val(node).dtype), sizes])


@emits(aten.zeros.default, aten.ones.default, aten.new_zeros.default, aten.new_ones.default, aten.empty.memory_format,
       aten.new_empty.default, settled=("self", "dtype"))  # fmt: skip
def _filled(e: Emitter, node: Node, size: Any) -> str:
    return _expanded(e, node, int(node.target in _ONES), e.shape(size))


@emits(aten.full.default, aten.new_full.default, settled=("self", "dtype"))
def _full(e: Emitter, node: Node, size: Any, fill_value: Any) -> str:
    return _expanded(e, node, fill_value, e.shape(size))


@emits(aten.zeros_like.default, aten.ones_like.default, aten.empty_like.default, settled=("dtype",))
def _filled_like(e: Emitter, node: Node, x: Any) -> str:
    return _expanded(e, node, int(node.target in _ONES), e.op("Shape", [e.value(x)]))


@emits(aten.full_like.default, settled=("dtype",))
def _full_like(e: Emitter, node: Node, x: Any, fill_value: Any) -> str:
    return _expanded(e, node, fill_value, e.op("Shape", [e.value(x)]))


@emits(aten.fill.Tensor, aten.fill.Scalar)
def _fill(e: Emitter, node: Node, x: Any, value: Any) -> str:
    return _expanded(e, node, value, e.op("Shape", [e.value(x)]))


@emits(aten.scalar_tensor.default, settled=("dtype",))
def _scalar_tensor(e: Emitter, node: Node, s: Any) -> str:
    return e.operand(s, val(node).dtype)


@emits(aten.arange.default, aten.arange.start, aten.arange.start_step, settled=("dtype",))
def _arange(e: Emitter, node: Node, end: Any, start: Any = 0, step: Any = 1) -> str:
    dtype = val(node).dtype
    floats = any(isinstance(v, float) for v in (start, end, step))
    compute = dtype if dtype.is_floating_point or not floats else torch.float32
    out = e.op("Range", [e.operand(v, compute) for v in (start, end, step)])
    return out if compute == dtype else e.cast(out, dtype)


@emits(prims.iota.default, settled=("requires_grad",))
def _iota(e: Emitter, node: Node, length: Any, start: Any, step: Any, dtype: torch.dtype) -> str:
    first, pace = e.operand(start, dtype), e.operand(step, dtype)
    count = e.operand(length, dtype)
    return e.op("Range", [first, e.op("Add", [first, e.op("Mul", [count, pace])]), pace])


@emits(aten.copy.default)
def _copy(e: Emitter, node: Node, x: Any, src: Any) -> str:
    """`src` in the shape and dtype of `x`, whose own elements are gone."""
    source = e.operand(src, val(node).dtype)
    same = is_tensor(src) and list(map(str, val(src).shape)) == list(map(str, val(node).shape))
    return source if same else e.op("Expand", [source, e.op("Shape", [e.value(x)])])
