"""Picking elements and putting them: select, slice, index, gather, scatter, sort."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.fx import Node

from vitc.graph.nodes import is_constant, is_tensor, shape_of, val, where
from vitc.lowering.onnx.arguments import Refused
from vitc.lowering.onnx.emitter import Emitter, emits
from vitc.lowering.onnx.ops_elementwise import choice

aten = torch.ops.aten
_END = 2**63 - 1


def axis_of(x: Node, dim: Any) -> int:
    """A dimension counted from the front."""
    return int(dim) % max(len(shape_of(x)), 1)


@emits(aten.select.int)
def _select(e: Emitter, node: Node, x: Any, dim: int, index: Any) -> str:
    at = e.op("Squeeze", [e.names[index], e.ints([0])]) if isinstance(index, Node) else e.const(index, torch.int64)
    return e.op("Gather", [e.value(x), at], axis=axis_of(x, dim))


def _cut(e: Emitter, name: str, axis: int, start: Any, end: Any, step: Any = 1) -> str:
    bounds = [e.shape([0 if start is None else start]), e.shape([_END if end is None else end])]
    return e.op("Slice", [name, *bounds, e.ints([axis]), e.shape([step])])


@emits(aten.slice.Tensor)
def _slice(e: Emitter, node: Node, x: Any, dim: int, start: Any, end: Any, step: Any) -> str:
    return _cut(e, e.value(x), axis_of(x, dim), start, end, step)


@emits(aten.slice_scatter.default)
def _slice_scatter(e: Emitter, node: Node, x: Any, src: Any, dim: int, start: Any, end: Any, step: Any) -> str:
    """x with a slice of it replaced: what stands before, the new part, what stands behind."""
    axis = axis_of(x, dim)
    size, part = shape_of(x)[axis], shape_of(src)[axis]
    if step != 1 or not all(isinstance(v, int) for v in (size, part, start or 0)):
        raise Refused(f"{where(node)} writes a slice of {part} of {size} elements by steps of {step}")
    first = min(max((start or 0) + (size if (start or 0) < 0 else 0), 0), size)
    name, new = e.value(x), e.operand(src, val(node).dtype)
    parts = [_cut(e, name, axis, 0, first)] if first else []
    parts += [new]
    parts += [_cut(e, name, axis, first + part, None)] if first + part < size else []
    return e.op("Concat", parts, axis=axis) if len(parts) > 1 else new


@emits(aten.select_scatter.default)
def _select_scatter(e: Emitter, node: Node, x: Any, src: Any, dim: int, index: Any) -> str:
    axis = axis_of(x, dim)
    size = shape_of(x)[axis]
    if not isinstance(size, int) or not isinstance(index, int):
        raise Refused(f"{where(node)} writes at an index that is not fixed")
    at, name = index % size, e.value(x)
    parts = [_cut(e, name, axis, 0, at)] if at else []
    parts += [e.op("Unsqueeze", [e.operand(src, val(node).dtype), e.ints([axis])])]
    parts += [_cut(e, name, axis, at + 1, None)] if at + 1 < size else []
    return e.op("Concat", parts, axis=axis) if len(parts) > 1 else parts[0]


@emits(aten.index_select.default)
def _index_select(e: Emitter, node: Node, x: Any, dim: int, index: Any) -> str:
    if not shape_of(x) or not shape_of(index):
        raise Refused(f"{where(node)} picks by or of a single number")
    return e.op("Gather", [e.value(x), e.value(index)], axis=axis_of(x, dim))


@emits(aten.unfold.default)
def _unfold(e: Emitter, node: Node, x: Any, dimension: int, size: int, step: int) -> str:
    """Windows along a dimension; a window's elements become the last dimension."""
    axis, rank = axis_of(x, dimension), len(shape_of(x))
    length = shape_of(x)[axis] if rank else None
    if not isinstance(length, int):
        raise Refused(f"{where(node)} takes windows of a length that is not fixed")
    starts = torch.arange(0, length - size + 1, step)
    picked = e.op("Gather", [e.value(x), e.const((starts[:, None] + torch.arange(size)).numpy())], axis=axis)
    return e.op("Transpose", [picked], perm=[i for i in range(rank + 1) if i != axis + 1] + [axis + 1])


# --- index with several tensors -------------------------------------------------------------------------------------


def _used(node: Node, indices: Any) -> list[tuple[int, Node]]:
    """(dimension, index tensor) of each that is given. Raises Refused for masks, which take an unknown number."""
    used = [(axis, index) for axis, index in enumerate(indices) if index is not None]
    if any(val(index).dtype in (torch.bool, torch.uint8) for _, index in used):
        raise Refused(f"{where(node)} picks by a boolean mask: how many elements that takes is not known before")
    return used


def _counted(e: Emitter, x: Node, axis: int, index: Node) -> str:
    """An index from the front, as INT64: engines differ in what they make of a negative one."""
    name = e.operand(index, torch.int64)
    if is_constant(index):
        size = shape_of(x)[axis]
        if not isinstance(size, int):
            return name
    size_name = e.op("Shape", [e.value(x)], start=axis, end=axis + 1)
    size_name = e.op("Squeeze", [size_name, e.ints([0])])
    negative = e.op("Less", [name, e.const(0, torch.int64)])
    return e.op("Where", [negative, e.op("Add", [name, size_name]), name])


@emits(aten.index.Tensor, aten._unsafe_index.Tensor)
def _index(e: Emitter, node: Node, x: Any, indices: Any) -> str:
    """One index tensor is a Gather; several are one too, on the dimensions they name merged into one."""
    used = _used(node, indices)
    shape = shape_of(x)
    if not used:
        return e.value(x)
    if len(used) == 1:
        axis, index = used[0]
        return e.op("Gather", [e.value(x), _counted(e, x, axis, index)], axis=axis)
    axes = [axis for axis, _ in used]
    inner = [shape[a] for a in axes[1:]]
    if not all(isinstance(s, int) for s in inner):
        raise Refused(f"{where(node)} indexes dimensions {inner} that are not fixed")
    adjacent = axes == list(range(axes[0], axes[-1] + 1))
    order = [a for a in range(len(shape)) if a not in axes]
    at = axes[0] if adjacent else 0
    order[at:at] = axes
    name = e.value(x)
    if order != list(range(len(shape))):
        name = e.op("Transpose", [name], perm=order)
    linear = ""
    for (axis, index), stride in zip(used, [math.prod(inner[i:]) for i in range(len(axes))], strict=True):
        term = _counted(e, x, axis, index)
        term = term if stride == 1 else e.op("Mul", [term, e.const(stride, torch.int64)])
        linear = term if not linear else e.op("Add", [linear, term])
    merged = _merged(e, name, [shape[a] for a in order], at, len(axes))
    return e.op("Gather", [merged, linear], axis=at)


def _merged(e: Emitter, name: str, sizes: list[Any], at: int, count: int) -> str:
    """`count` dimensions from `at` on as one."""
    before, behind = sizes[:at], sizes[at + count :]
    if all(isinstance(s, int) for s in behind):
        return e.op("Reshape", [name, e.ints([0] * len(before) + [-1, *behind])])
    head = [e.op("Shape", [name], start=0, end=at)] if before else []
    tail = [e.op("Shape", [name], start=at + count)] if behind else []
    return e.op("Reshape", [name, e.op("Concat", [*head, e.ints([-1]), *tail], axis=0)])


@emits(aten.index_put.default, aten._unsafe_index_put.default)
def _index_put(e: Emitter, node: Node, x: Any, indices: Any, values: Any, accumulate: bool) -> str:
    """ScatterND at the indexed dimensions, moved to the front; a boolean mask with one value is a Where."""
    given = [i for i in indices if i is not None]
    if len(given) == 1 and val(given[0]).dtype == torch.bool and not accumulate:
        return _masked_put(e, node, x, list(indices), given[0], values)
    used, shape = _used(node, indices), list(shape_of(x))
    axes = [axis for axis, _ in used]
    if axes != list(range(axes[0], axes[-1] + 1)):
        raise Refused(f"{where(node)} writes at dimensions {axes}, which are not neighbours")
    order = axes + [a for a in range(len(shape)) if a not in axes]
    back = [order.index(a) for a in range(len(shape))]
    name, moves = e.value(x), order != list(range(len(shape)))
    target = e.op("Transpose", [name], perm=order) if moves else name
    counted = [_counted(e, x, axis, index) for axis, index in used]
    spread = torch.broadcast_shapes(*(tuple(shape_of(index)) for _, index in used))
    rank = len(spread)
    if len(counted) > 1:  # the sum of all has the shape they broadcast to
        total = counted[0]
        for other in counted[1:]:
            total = e.op("Add", [total, other])
        common = e.op("Shape", [total])
        counted = [e.op("Expand", [c, common]) for c in counted]
    else:
        common = e.op("Shape", [counted[0]])
    where_to = e.op("Concat", [e.op("Unsqueeze", [c, e.ints([rank])]) for c in counted], axis=rank)
    rest = e.op("Shape", [target], start=len(axes))
    # The values broadcast to the shape that x[indices] has: the indices' dimensions stand where the first one was.
    at = axes[0]
    kept = len(shape) - len(axes)
    new = e.operand(values, val(node).dtype)
    if at and len(shape_of(values)) > kept - at:  # [before, indexed, behind] → [indexed, before, behind]
        full = at + rank + (kept - at)
        new = _with_rank(e, new, len(shape_of(values)), full)
        new = e.op("Transpose", [new], perm=[*range(at, at + rank), *range(at), *range(at + rank, full)])
    new = e.op("Expand", [new, e.op("Concat", [common, rest], axis=0)])
    put = e.op("ScatterND", [target, where_to, new], reduction="add" if accumulate else "none")
    return e.op("Transpose", [put], perm=back) if moves else put


def _with_rank(e: Emitter, name: str, rank: int, wanted: int) -> str:
    return name if rank == wanted else e.op("Unsqueeze", [name, e.ints(range(wanted - rank))])


def _masked_put(e: Emitter, node: Node, x: Node, indices: list[Any], mask: Node, values: Node) -> str:
    if any(s != 1 for s in shape_of(values)):
        raise Refused(f"{where(node)} writes several values by a boolean mask")
    first = indices.index(mask)
    behind = len(shape_of(x)) - first - len(shape_of(mask))
    name = e.value(mask)
    if behind:
        rank = len(shape_of(mask))
        name = e.op("Unsqueeze", [name, e.ints(range(rank, rank + behind))])
    value = e.op("Reshape", [e.operand(values, val(node).dtype), e.ints([])])
    return choice(e, name, value, e.value(x), val(node).dtype)


# --- gather and scatter along one dimension -------------------------------------------------------------------------


@emits(aten.gather.default, settled=("sparse_grad",))
def _gather(e: Emitter, node: Node, x: Any, dim: int, index: Any) -> str:
    if not shape_of(x):
        raise Refused(f"{where(node)} gathers from a single number")
    return e.op("GatherElements", [e.value(x), e.operand(index, torch.int64)], axis=axis_of(x, dim))


_SCATTER_MODES = {"add": "add", "multiply": "mul", "sum": "add", "prod": "mul", "amax": "max", "amin": "min"}


@emits(aten.scatter.src, aten.scatter.value, aten.scatter_add.default, aten.scatter.reduce, aten.scatter.value_reduce,
       aten.scatter_reduce.two)  # fmt: skip
def _scatter(e: Emitter, node: Node, x: Any, dim: int, index: Any, src: Any = None, value: Any = None,
             reduce: str | None = None, include_self: bool = True) -> str:  # fmt: skip
    if not shape_of(x) or not include_self or (reduce is not None and reduce not in _SCATTER_MODES):
        raise Refused(f"{where(node)} scatters with reduce={reduce}, include_self={include_self}")
    dtype, at = val(node).dtype, e.operand(index, torch.int64)
    if node.target is aten.scatter_add.default:
        reduce = "add"
    if src is None or not is_tensor(src):
        new = e.op("Expand", [e.operand(value if src is None else src, dtype), e.op("Shape", [at])])
    else:
        new = e.operand(src, dtype)
        if list(map(str, shape_of(src))) != list(map(str, shape_of(index))):  # torch reads the part that index covers
            rank = len(shape_of(index))
            new = e.op("Slice", [new, e.ints([0] * rank), e.op("Shape", [at])])
    mode = "none" if reduce is None else _SCATTER_MODES[reduce]
    return e.op("ScatterElements", [e.value(x), at, new], axis=axis_of(x, dim), reduction=mode)


# --- order ----------------------------------------------------------------------------------------------------------


@emits(aten.topk.default, settled=("sorted",))
def _topk(e: Emitter, node: Node, x: Any, k: Any, dim: int, largest: bool) -> tuple[str, ...]:
    """Sorted, which is one of the orders that sorted=False leaves open."""
    if not shape_of(x):
        raise Refused(f"{where(node)} sorts a single number")
    dtype = val(x).dtype
    compute = torch.int32 if dtype in (torch.uint8, torch.int8, torch.int16, torch.bool) else dtype
    found = e.ops("TopK", [e.operand(x, compute), e.shape([k])], 2, axis=axis_of(x, dim), largest=int(largest))
    return (found[0] if compute == dtype else e.cast(found[0], dtype), found[1])


@emits(aten.sort.default, aten.sort.stable)
def _sort(e: Emitter, node: Node, x: Any, dim: int, descending: bool, stable: Any = None) -> tuple[str, ...]:
    """TopK of all; among equals the first stays first, so it is stable as well."""
    if not shape_of(x):
        raise Refused(f"{where(node)} sorts a single number")
    axis = axis_of(x, dim)
    size = e.op("Shape", [e.value(x)], start=axis, end=axis + 1)
    dtype = val(x).dtype
    compute = torch.int32 if dtype in (torch.uint8, torch.int8, torch.int16, torch.bool) else dtype
    found = e.ops("TopK", [e.operand(x, compute), size], 2, axis=axis, largest=int(descending))
    return (found[0] if compute == dtype else e.cast(found[0], dtype), found[1])
