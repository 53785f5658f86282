"""Reductions, products of matrices, and softmax."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.fx import Node

from vitc.graph.nodes import shape_of, val
from vitc.lowering.onnx.arguments import Refused
from vitc.lowering.onnx.emitter import Emitter, emits

aten = torch.ops.aten


def _axes(x: Node, dim: Any) -> list[int]:
    """The dimensions an argument names: one, several, or all by None or an empty list."""
    rank = len(shape_of(x))
    dims = [] if dim is None else list(dim) if isinstance(dim, (list, tuple)) else [dim]
    return [int(d) % rank for d in dims] if dims and rank else list(range(rank))


_REDUCE = {
    aten.mean.dim: "ReduceMean", aten.mean.default: "ReduceMean", aten.sum.dim_IntList: "ReduceSum",
    aten.sum.default: "ReduceSum", aten.amax.default: "ReduceMax", aten.amin.default: "ReduceMin",
    aten.max.default: "ReduceMax", aten.min.default: "ReduceMin", aten.prod.default: "ReduceProd",
    aten.prod.dim_int: "ReduceProd",
    aten.any.default: "ReduceMax", aten.any.dim: "ReduceMax", aten.any.dims: "ReduceMax",
    aten.all.default: "ReduceMin", aten.all.dim: "ReduceMin", aten.all.dims: "ReduceMin",
}  # fmt: skip
_LOGICAL = {aten.any.default, aten.any.dim, aten.any.dims, aten.all.default, aten.all.dim, aten.all.dims}


@emits(*_REDUCE, settled=("dtype",))
def _reduce(e: Emitter, node: Node, x: Any, dim: Any = None, keepdim: bool = False) -> str:
    dtype = val(node).dtype
    if node.target in _LOGICAL:  # of booleans, through INT32
        operand = e.cast(e.operand(x, torch.bool), torch.int32)
    else:
        operand = e.operand(x, torch.int32 if dtype in (torch.bool, torch.uint8, torch.int8, torch.int16) else dtype)
    if node.target is aten.any.dims and dim is not None and not list(dim):
        raise Refused("any over no dimension")
    result = e.op(_REDUCE[node.target], [operand, e.ints(_axes(x, dim))], keepdims=int(keepdim))  # type: ignore[index]
    computed = (
        torch.int32 if node.target in _LOGICAL or dtype in (torch.bool, torch.uint8, torch.int8, torch.int16) else dtype
    )
    return result if computed == dtype else e.cast(result, dtype)


@emits(aten.linalg_vector_norm.default, settled=("dtype",))
def _vector_norm(e: Emitter, node: Node, x: Any, ord: float, dim: Any, keepdim: bool) -> str:
    name, axes, keep = e.operand(x, val(node).dtype), e.ints(_axes(x, dim)), int(keepdim)
    if ord in (1, 2):
        return e.op("ReduceL1" if ord == 1 else "ReduceL2", [name, axes], keepdims=keep)
    if abs(ord) == math.inf:
        return e.op("ReduceMax" if ord > 0 else "ReduceMin", [e.op("Abs", [name]), axes], keepdims=keep)
    raise Refused(f"{node.name} is a norm of order {ord}")


@emits(aten.var.correction, aten.var_mean.correction)
def _variance(e: Emitter, node: Node, x: Any, dim: Any, correction: Any, keepdim: bool) -> Any:
    name = e.value(x)
    axes = _axes(x, dim)
    dtype = val(x).dtype
    correction = 1 if correction is None else correction
    mean = e.op("ReduceMean", [name, e.ints(axes)], keepdims=1)
    centered = e.op("Sub", [name, mean])
    total = e.op("ReduceSum", [e.op("Mul", [centered, centered]), e.ints(axes)], keepdims=int(keepdim))
    sizes = [shape_of(x)[a] for a in axes]
    if all(isinstance(s, int) for s in sizes):
        count = e.const(max(0, math.prod(sizes) - correction), dtype)
    else:
        kept = e.op("Gather", [e.op("Shape", [name]), e.ints(axes)], axis=0)
        number = e.cast(e.op("ReduceProd", [kept], keepdims=0), dtype)
        count = e.op("Max", [e.op("Sub", [number, e.const(correction, dtype)]), e.const(0, dtype)])
    variance = e.op("Div", [total, count])
    if node.target is aten.var.correction:
        return variance
    return variance, mean if keepdim else e.op("Squeeze", [mean, e.ints(axes)])


@emits(aten.cumsum.default, settled=("dtype",))
def _cumsum(e: Emitter, node: Node, x: Any, dim: int) -> str:
    dtype = val(node).dtype
    if not shape_of(x):
        return e.operand(x, dtype)
    return e.op("CumSum", [e.operand(x, dtype), e.const(int(dim) % len(shape_of(x)), torch.int64)])


@emits(aten.max.dim, aten.min.dim)
def _extreme(e: Emitter, node: Node, x: Any, dim: int, keepdim: bool) -> tuple[str, str]:
    maximum = node.target is aten.max.dim
    (axis,) = _axes(x, dim)
    name = _comparable(e, x)
    values = e.op("ReduceMax" if maximum else "ReduceMin", [name, e.ints([axis])], keepdims=int(keepdim))
    if val(x).dtype != _comparable_type(x):
        values = e.cast(values, val(x).dtype)
    return values, e.op("ArgMax" if maximum else "ArgMin", [name], axis=axis, keepdims=int(keepdim))


def _comparable_type(x: Node) -> torch.dtype:
    """What engines compare for their greatest: floats, INT32."""
    dtype = val(x).dtype
    return torch.int32 if dtype in (torch.bool, torch.uint8, torch.int8, torch.int16) else dtype


def _comparable(e: Emitter, x: Node) -> str:
    return e.operand(x, _comparable_type(x))


@emits(aten.argmax.default, aten.argmin.default)
def _argmax(e: Emitter, node: Node, x: Any, dim: int | None, keepdim: bool) -> str:
    op = "ArgMax" if node.target is aten.argmax.default else "ArgMin"
    name = _comparable(e, x)
    if dim is None or not shape_of(x):  # over all elements, numbered row by row
        flat = e.op("ArgMax" if op == "ArgMax" else op, [e.op("Reshape", [name, e.ints([-1])])], axis=0, keepdims=0)
        return e.op("Reshape", [flat, e.ints([1] * len(shape_of(x)))]) if keepdim else flat
    (axis,) = _axes(x, dim)
    return e.op(op, [name], axis=axis, keepdims=int(keepdim))


@emits(aten.matmul.default, aten.bmm.default, aten.mm.default)
def _matmul(e: Emitter, node: Node, x: Any, other: Any = None, mat2: Any = None) -> str:
    return e.op("MatMul", [e.value(x), e.value(mat2 if other is None else other)])


@emits(aten.baddbmm.default, aten.addmm.default)
def _addmm(e: Emitter, node: Node, x: Any, beta: Any, alpha: Any, mat1: Any = None, mat2: Any = None,
           batch1: Any = None, batch2: Any = None) -> str:  # fmt: skip
    dtype = val(node).dtype
    factors = (mat1, mat2) if batch1 is None else (batch1, batch2)
    product = e.op("MatMul", [e.value(f) for f in factors])
    if alpha != 1:
        product = e.op("Mul", [product, e.const(alpha, dtype)])
    if beta == 0:  # what is added is not even read: NaN in it does not count
        return product
    added = e.value(x)
    return e.op("Add", [product, added if beta == 1 else e.op("Mul", [added, e.const(beta, dtype)])])


@emits(aten.einsum.default, settled=("path",))
def _einsum(e: Emitter, node: Node, equation: str, tensors: Any) -> str:
    return e.op("Einsum", [e.value(t) for t in tensors], equation=equation.replace(" ", ""))


_SOFTMAX = {
    aten.softmax.int: "Softmax", aten._softmax.default: "Softmax", aten._safe_softmax.default: "Softmax",
    aten.log_softmax.int: "LogSoftmax", aten._log_softmax.default: "LogSoftmax",
}  # fmt: skip


@emits(*_SOFTMAX, settled=("dtype", "half_to_float"))
def _softmax(e: Emitter, node: Node, x: Any, dim: int) -> str:
    dtype = val(node).dtype
    if not shape_of(x):
        raise Refused(f"{node.name} is a softmax of one number")
    axis = int(dim) % len(shape_of(x))
    scores = e.operand(x, dtype)
    if node.target is not aten._safe_softmax.default:
        return e.op(_SOFTMAX[node.target], [scores], axis=axis)  # type: ignore[index]
    # A row of -inf alone is NaN by the formula and 0 by torch's attention. The least number takes -inf's place: its
    # exponential is 0 as well, and engines compare with it as they should.
    least = e.const(torch.finfo(dtype).min, dtype)
    bounded = e.op("Max", [scores, least])
    weights = e.op("Softmax", [bounded], axis=axis)
    dead = e.op("LessOrEqual", [e.op("ReduceMax", [bounded, e.ints([axis])], keepdims=1), least])
    return e.op("Where", [dead, e.const(0, dtype), weights])
