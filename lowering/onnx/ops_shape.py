"""Data movement: reshapes, transposes, joins and splits, padding."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from vitc.graph.nodes import shape_of, val, where
from vitc.lowering.onnx.arguments import Refused
from vitc.lowering.onnx.emitter import Emitter, emits
from vitc.lowering.onnx.ops_index import axis_of

aten, prims = torch.ops.aten, torch.ops.prims


@emits(aten.view.default, aten.reshape.default, aten._unsafe_view.default)
def _reshape(e: Emitter, node: Node, x: Any, size: Any = None, shape: Any = None) -> str:
    sizes = list(size if shape is None else shape)
    return e.op("Reshape", [e.value(x), _reshape_shape(e, x, sizes)], **_allow_zero(node))


def _allow_zero(node: Node) -> dict[str, Any]:
    """A written size of 0 means none, not a copy of the operand's."""
    return {"allowzero": 1} if any(isinstance(s, int) and s == 0 for s in shape_of(node)) else {}


def _reshape_shape(e: Emitter, x: Any, sizes: list[Any]) -> str:
    """One symbolic size becomes −1; a symbolic first size that is the operand's own becomes 0 (copy)."""
    symbolic = [i for i, s in enumerate(sizes) if isinstance(s, Node)]
    if any(isinstance(s, int) and s == 0 for s in sizes):
        return e.shape(sizes)
    if len(symbolic) == 1 and -1 not in sizes:
        sizes[symbolic[0]] = -1
    elif symbolic == [0] and shape_of(x) and str(sizes[0].meta["val"]) == str(shape_of(x)[0]):
        sizes[0] = 0
    return e.shape(sizes)


@emits(aten.flatten.using_ints, settled=("start_dim", "end_dim"))
def _flatten(e: Emitter, node: Node, x: Any) -> str:
    return _reshaped(e, node, e.value(x))


def _reshaped(e: Emitter, node: Node, name: str) -> str:
    """To the node's own shape, which has one dynamic dimension at most."""
    dims = shape_of(node)
    sizes = [d if isinstance(d, int) else -1 for d in dims]
    if sizes.count(-1) > 1 or (-1 in sizes and 0 in sizes):
        raise Refused(f"{where(node)} leaves more than one dynamic dimension {list(dims)}")
    return e.op("Reshape", [name, e.ints(sizes)], **_allow_zero(node))


@emits(aten.unflatten.int)
def _unflatten(e: Emitter, node: Node, x: Any, dim: int, sizes: Any) -> str:
    axis = axis_of(x, dim)
    before, after = shape_of(x)[:axis], shape_of(x)[axis + 1 :]
    shape = [0] * len(before) + list(sizes) + [d if isinstance(d, int) else -1 for d in after]
    if shape.count(-1) > 1:
        raise Refused(f"{where(node)} leaves more than one size to be found")
    return e.op("Reshape", [e.value(x), e.shape(shape)])


@emits(aten.permute.default)
def _permute(e: Emitter, node: Node, x: Any, dims: Any) -> str:
    return e.op("Transpose", [e.value(x)], perm=[axis_of(x, d) for d in dims])


@emits(aten.transpose.int, aten.t.default)
def _transpose(e: Emitter, node: Node, x: Any, dim0: int = 0, dim1: int = -1) -> str:
    perm = list(range(len(shape_of(node))))
    if perm:
        a, b = axis_of(x, dim0), axis_of(x, dim1)
        perm[a], perm[b] = perm[b], perm[a]
    return e.op("Transpose", [e.value(x)], perm=perm)


@emits(aten.unsqueeze.default)
def _unsqueeze(e: Emitter, node: Node, x: Any, dim: int) -> str:
    return e.op("Unsqueeze", [e.value(x), e.ints([int(dim) % len(shape_of(node))])])


@emits(aten.squeeze.dim, aten.squeeze.dims, aten.squeeze.default)
def _squeeze(e: Emitter, node: Node, x: Any, dim: Any = None) -> str:
    shape = shape_of(x)
    asked = list(range(len(shape))) if dim is None else dim if isinstance(dim, (list, tuple)) else [dim]
    axes = [a for a in (axis_of(x, d) for d in asked) if shape and isinstance(shape[a], int) and shape[a] == 1]
    return e.op("Squeeze", [e.value(x), e.ints(axes)]) if axes else e.value(x)


@emits(aten.expand.default, settled=("implicit",))
def _expand(e: Emitter, node: Node, x: Any, size: Any) -> str:
    """Sizes that the operand has already are −1 or its own: written as 1, which keeps them, since ONNX broadcasts both
    ways; but for a size of none, which 1 would not keep."""
    own = [None] * (len(size) - len(shape_of(x))) + list(shape_of(x))
    keeps = [isinstance(s, int) and (s == -1 or (s == o and s > 0)) for s, o in zip(size, own, strict=True)]
    return e.op("Expand", [e.value(x), e.shape([1 if k else s for k, s in zip(keeps, size, strict=True)])])


@emits(prims.broadcast_in_dim.default)
def _broadcast(e: Emitter, node: Node, x: Any, shape: Any, broadcast_dimensions: Any) -> str:
    added = [i for i in range(len(shape)) if i not in list(broadcast_dimensions)]
    name = e.value(x)
    if added:
        name = e.op("Unsqueeze", [name, e.ints(added)])
    return e.op("Expand", [name, e.shape(shape)])


@emits(aten.repeat.default)
def _repeat(e: Emitter, node: Node, x: Any, repeats: Any) -> str:
    name, rank = e.value(x), len(shape_of(x))
    if len(repeats) > rank:
        name = e.op("Unsqueeze", [name, e.ints(range(len(repeats) - rank))])
    return e.op("Tile", [name, e.shape(repeats)])


@emits(aten.cat.default)
def _cat(e: Emitter, node: Node, tensors: Any, dim: int) -> str:
    """Empty parts are left out: engines disagree about them."""
    dtype, axis = val(node).dtype, axis_of(node, dim)
    parts = [p for p in tensors if not _empty(p)]
    if not parts:
        return e.operand(tensors[-1], dtype)
    if len(parts) == 1:
        return e.operand(parts[0], dtype)
    return e.op("Concat", [e.operand(p, dtype) for p in parts], axis=axis)


def _empty(x: Node) -> bool:
    return any(isinstance(s, int) and s == 0 for s in shape_of(x))


@emits(aten.stack.default)
def _stack(e: Emitter, node: Node, tensors: Any, dim: int) -> str:
    axis, dtype = axis_of(node, dim), val(node).dtype
    return e.op("Concat", [e.op("Unsqueeze", [e.operand(p, dtype), e.ints([axis])]) for p in tensors], axis=axis)


@emits(aten.unbind.int)
def _unbind(e: Emitter, node: Node, x: Any, dim: int) -> tuple[str, ...]:
    axis, name = axis_of(x, dim), e.value(x)
    return tuple(e.op("Gather", [name, e.const(i, torch.int64)], axis=axis) for i in range(len(node.meta["val"])))


@emits(aten.split.Tensor, aten.split_with_sizes.default, settled=("split_size", "split_sizes"))
def _split(e: Emitter, node: Node, x: Any, dim: int) -> tuple[str, ...]:
    """The sizes are those of the results."""
    axis = axis_of(x, dim)
    sizes = [v.shape[axis] for v in node.meta["val"]]
    if not all(isinstance(s, int) for s in sizes):
        raise Refused(f"{where(node)} splits a dimension that is not fixed")
    if len(sizes) == 1:
        return (e.value(x),)
    return tuple(e.ops("Split", [e.value(x), e.ints(sizes)], len(sizes), axis=axis))


@emits(aten.roll.default)
def _roll(e: Emitter, node: Node, x: Any, shifts: Any, dims: Any) -> str:
    name, shape = e.value(x), shape_of(x)
    if not dims:  # over all elements, row by row
        total = 1
        for size in shape:
            if not isinstance(size, int):
                raise Refused(f"{where(node)} rolls a tensor of {list(shape)} as one row")
            total *= size
        row = _rolled(e, e.op("Reshape", [name, e.ints([-1])]), 0, int(shifts[0]), total)
        return e.op("Reshape", [row, e.ints(list(shape))])
    for shift, dim in zip(shifts, dims, strict=True):
        axis = axis_of(x, dim)
        if not isinstance(shape[axis], int):
            raise Refused(f"{where(node)} rolls dimension {axis}, which is not fixed")
        name = _rolled(e, name, axis, int(shift), shape[axis])
    return name


def _rolled(e: Emitter, name: str, axis: int, shift: int, size: int) -> str:
    cut = -shift % size if size else 0
    if cut == 0:
        return name
    tail = e.op("Slice", [name, e.ints([cut]), e.ints([2**63 - 1]), e.ints([axis])])
    head = e.op("Slice", [name, e.ints([0]), e.ints([cut]), e.ints([axis])])
    return e.op("Concat", [tail, head], axis=axis)


@emits(aten.flip.default)
def _flip(e: Emitter, node: Node, x: Any, dims: Any) -> str:
    axes = [axis_of(x, d) for d in dims]
    n = len(axes)
    if not n or not shape_of(x):
        return e.value(x)
    return e.op("Slice", [e.value(x), e.ints([-1] * n), e.ints([-(2**63)] * n), e.ints(axes), e.ints([-1] * n)])


_PAD_MODES = {
    aten.reflection_pad1d.default: "reflect", aten.reflection_pad2d.default: "reflect",
    aten.reflection_pad3d.default: "reflect", aten.replication_pad1d.default: "replicate",
    aten.replication_pad2d.default: "replicate", aten.replication_pad3d.default: "replicate",
}  # fmt: skip


@emits(aten.pad.default, aten.constant_pad_nd.default, *_PAD_MODES)
def _pad(e: Emitter, node: Node, x: Any, pad: Any = None, mode: str = "constant", value: Any = None,
         padding: Any = None) -> str:  # fmt: skip
    """What is cut off (pads below 0) goes first, as a slice."""
    mode = _PAD_MODES.get(node.target, mode)  # type: ignore[call-overload]
    pairs = list(padding if pad is None else pad)
    rank, dtype = len(shape_of(node)), val(node).dtype
    if not all(isinstance(p, int) for p in pairs):
        raise Refused(f"{where(node)} pads by sizes that are not fixed")
    begins, ends = [0] * rank, [0] * rank
    for i in range(len(pairs) // 2):  # torch counts from the last dimension
        begins[rank - 1 - i], ends[rank - 1 - i] = pairs[2 * i], pairs[2 * i + 1]
    name = e.value(x)
    cut = [a for a in range(rank) if begins[a] < 0 or ends[a] < 0]
    if cut:
        starts = [max(-begins[a], 0) for a in cut]
        stops = [min(ends[a], 0) or 2**63 - 1 for a in cut]
        name = e.op("Slice", [name, e.ints(starts), e.ints(stops), e.ints(cut)])
        begins, ends = [max(b, 0) for b in begins], [max(n, 0) for n in ends]
    if not any(begins + ends):
        return name
    narrow = dtype if dtype.is_floating_point or dtype in (torch.int32, torch.int64) else torch.int32
    name = name if narrow == dtype else e.cast(name, narrow)
    inputs = [name, e.ints(begins + ends)]
    if mode == "constant":
        inputs.append(e.const(value or 0, narrow))
    onnx_mode = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}[mode]
    out = e.op("Pad", inputs, mode=onnx_mode)
    return out if narrow == dtype else e.cast(out, dtype)
