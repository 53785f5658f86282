"""Data movement."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch.fx import Node

from vitc.errors import LoweringError
from vitc.graph.nodes import shape_of, val, where
from vitc.lowering.onnx.emitter import ONNX_TYPES, Emitter, emits, literal

aten = torch.ops.aten


def _axis(node: Node, dim: Any) -> int:
    rank = len(shape_of(node.args[0]))  # type: ignore[arg-type]
    return int(dim) % max(rank, 1)


@emits(aten.view.default, aten.reshape.default, aten._unsafe_view.default)
def _reshape(e: Emitter, node: Node) -> str:
    x, sizes = node.args
    return e.op("Reshape", [e.value(x), _reshape_shape(e, x, list(sizes))])  # type: ignore[arg-type]


def _reshape_shape(e: Emitter, x: Any, sizes: list[Any]) -> str:
    """One symbolic size becomes −1; a symbolic first size that is the operand's own becomes 0 (copy)."""
    symbolic = [i for i, s in enumerate(sizes) if isinstance(s, Node)]
    if len(symbolic) == 1 and -1 not in sizes:
        sizes[symbolic[0]] = -1
    elif symbolic == [0] and str(sizes[0].meta["val"]) == str(shape_of(x)[0]):
        sizes[0] = 0
    return e.shape(sizes)


@emits(aten.flatten.using_ints)
def _flatten(e: Emitter, node: Node) -> str:
    dims = shape_of(node)
    sizes = [d if isinstance(d, int) else -1 for d in dims]
    if sizes.count(-1) > 1:
        raise LoweringError(f"{where(node)} leaves more than one dynamic dimension {list(dims)}")
    return e.op("Reshape", [e.value(node.args[0]), e.ints(sizes)])


@emits(aten.unflatten.int)
def _unflatten(e: Emitter, node: Node) -> str:
    x, dim, sizes = node.args
    axis = _axis(node, dim)
    before = shape_of(x)[:axis]  # type: ignore[arg-type]
    after = shape_of(x)[axis + 1 :]  # type: ignore[arg-type]
    shape = [0] * len(before) + list(sizes) + [d if isinstance(d, int) else -1 for d in after]  # type: ignore[arg-type]
    return e.op("Reshape", [e.value(x), e.shape(shape)])


@emits(aten.permute.default)
def _permute(e: Emitter, node: Node) -> str:
    return e.op("Transpose", [e.value(node.args[0])], perm=[_axis(node, d) for d in node.args[1]])  # type: ignore[union-attr]


@emits(aten.transpose.int, aten.t.default)
def _transpose(e: Emitter, node: Node) -> str:
    perm = list(range(len(shape_of(node))))
    a, b = (_axis(node, node.args[1]), _axis(node, node.args[2])) if len(node.args) > 2 else (0, len(perm) - 1)
    perm[a], perm[b] = perm[b], perm[a]
    return e.op("Transpose", [e.value(node.args[0])], perm=perm)


@emits(aten.unsqueeze.default)
def _unsqueeze(e: Emitter, node: Node) -> str:
    return e.op("Unsqueeze", [e.value(node.args[0]), e.ints([int(node.args[1]) % len(shape_of(node))])])  # type: ignore[arg-type]


@emits(aten.squeeze.dim, aten.squeeze.dims, aten.squeeze.default)
def _squeeze(e: Emitter, node: Node) -> str:
    shape = shape_of(node.args[0])  # type: ignore[arg-type]
    asked = node.args[1] if len(node.args) > 1 else list(range(len(shape)))
    axes = [_axis(node, d) for d in (asked if isinstance(asked, (list, tuple)) else [asked])]
    axes = [a for a in axes if shape[a] == 1 and isinstance(shape[a], int)]
    return e.op("Squeeze", [e.value(node.args[0]), e.ints(axes)]) if axes else e.value(node.args[0])


@emits(aten.expand.default)
def _expand(e: Emitter, node: Node) -> str:
    # −1 keeps a size; ONNX's Expand broadcasts both ways, so 1 does the same.
    sizes = [1 if isinstance(s, int) and s == -1 else s for s in node.args[1]]  # type: ignore[union-attr]
    return e.op("Expand", [e.value(node.args[0]), e.shape(sizes)])


@emits(aten.repeat.default)
def _repeat(e: Emitter, node: Node) -> str:
    x, repeats = e.value(node.args[0]), list(node.args[1])  # type: ignore[arg-type]
    rank = len(shape_of(node.args[0]))  # type: ignore[arg-type]
    if len(repeats) > rank:
        x = e.op("Unsqueeze", [x, e.ints(range(len(repeats) - rank))])
    return e.op("Tile", [x, e.shape(repeats)])


@emits(aten.cat.default)
def _cat(e: Emitter, node: Node) -> str:
    dtype = val(node).dtype
    parts = [p for p in node.args[0] if tuple(shape_of(p)) != (0,)]  # type: ignore[union-attr, arg-type]
    axis = int(literal(node, 1, "dim", 0)) % len(shape_of(node))
    return e.op("Concat", [e.operand(p, dtype) for p in parts], axis=axis)


@emits(aten.stack.default)
def _stack(e: Emitter, node: Node) -> str:
    axis = int(literal(node, 1, "dim", 0)) % len(shape_of(node))
    parts = [e.op("Unsqueeze", [e.value(p), e.ints([axis])]) for p in node.args[0]]  # type: ignore[union-attr]
    return e.op("Concat", parts, axis=axis)


@emits(aten.unbind.int)
def _unbind(e: Emitter, node: Node) -> tuple[str, ...]:
    axis = _axis(node, literal(node, 1, "dim", 0))
    x = e.value(node.args[0])
    return tuple(e.op("Gather", [x, e.const(i, torch.int64)], axis=axis) for i in range(len(node.meta["val"])))


@emits(aten.split.Tensor, aten.split_with_sizes.default)
def _split(e: Emitter, node: Node) -> tuple[str, ...]:
    axis = _axis(node, literal(node, 2, "dim", 0))
    sizes = [int(v.shape[axis]) for v in node.meta["val"]]
    if len(sizes) == 1:
        return (e.value(node.args[0]),)
    return tuple(e.ops("Split", [e.value(node.args[0]), e.ints(sizes)], len(sizes), axis=axis))


@emits(aten.select.int)
def _select(e: Emitter, node: Node) -> str:
    x, dim, index = node.args
    if isinstance(index, Node):
        raise LoweringError(f"{where(node)} selects at a computed index")
    return e.op("Gather", [e.value(x), e.const(index, torch.int64)], axis=_axis(node, dim))


@emits(aten.slice.Tensor)
def _slice(e: Emitter, node: Node) -> str:
    axis = _axis(node, literal(node, 1, "dim", 0))
    start, end, step = (literal(node, i, n, d) for i, n, d in ((2, "start", 0), (3, "end", None), (4, "step", 1)))
    bounds = [e.shape([0 if start is None else start]), e.shape([2**63 - 1 if end is None else end])]
    return e.op("Slice", [e.value(node.args[0]), *bounds, e.ints([axis]), e.shape([step])])


@emits(aten.index_select.default)
def _index_select(e: Emitter, node: Node) -> str:
    return e.op("Gather", [e.value(node.args[0]), e.value(node.args[2])], axis=_axis(node, node.args[1]))


@emits(aten.index.Tensor)
def _index(e: Emitter, node: Node) -> str:
    x, given = node.args
    used = [(axis, index) for axis, index in enumerate(given) if index is not None]  # type: ignore[arg-type]
    if len(used) != 1 or val(used[0][1]).dtype == torch.bool:
        raise LoweringError(
            f"{where(node)} indexes {len(used)} dimensions at once; only one integer index has an ONNX form"
        )
    axis, index = used[0]
    return e.op("Gather", [e.value(x), e.value(index)], axis=axis)


@emits(aten.gather.default)
def _gather(e: Emitter, node: Node) -> str:
    return e.op("GatherElements", [e.value(node.args[0]), e.value(node.args[2])], axis=_axis(node, node.args[1]))


@emits(aten.roll.default)
def _roll(e: Emitter, node: Node) -> str:
    x, name = node.args[0], e.value(node.args[0])
    shifts, dims = node.args[1], literal(node, 2, "dims", [])
    for shift, dim in zip(shifts, dims, strict=True):  # type: ignore[arg-type]
        axis = _axis(node, dim)
        cut = -int(shift) % int(shape_of(x)[axis])  # type: ignore[arg-type]
        if cut == 0:
            continue
        tail = e.op("Slice", [name, e.ints([cut]), e.ints([2**63 - 1]), e.ints([axis])])
        head = e.op("Slice", [name, e.ints([0]), e.ints([cut]), e.ints([axis])])
        name = e.op("Concat", [tail, head], axis=axis)
    return name


@emits(aten.flip.default)
def _flip(e: Emitter, node: Node) -> str:
    axes = [_axis(node, d) for d in node.args[1]]  # type: ignore[union-attr]
    n = len(axes)
    return e.op(
        "Slice", [e.value(node.args[0]), e.ints([-1] * n), e.ints([-(2**63)] * n), e.ints(axes), e.ints([-1] * n)]
    )


@emits(aten.pad.default, aten.constant_pad_nd.default)
def _pad(e: Emitter, node: Node) -> str:
    mode = literal(node, 2, "mode", "constant") if node.target is aten.pad.default else "constant"
    fill = literal(node, 3, "value", 0.0) if node.target is aten.pad.default else literal(node, 2, "value", 0.0)
    rank = len(shape_of(node))
    pairs = list(node.args[1])  # type: ignore[arg-type]
    begins, ends = [0] * rank, [0] * rank
    for i in range(len(pairs) // 2):  # torch counts from the last dimension
        begins[rank - 1 - i], ends[rank - 1 - i] = pairs[2 * i], pairs[2 * i + 1]
    onnx_mode = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}[mode]
    inputs = [e.value(node.args[0]), e.ints(begins + ends)]
    if mode == "constant":
        inputs.append(e.const(fill or 0.0, val(node).dtype))
    return e.op("Pad", inputs, mode=onnx_mode)


@emits(aten.pixel_shuffle.default)
def _pixel_shuffle(e: Emitter, node: Node) -> str:
    return e.op("DepthToSpace", [e.value(node.args[0])], blocksize=int(node.args[1]), mode="CRD")  # type: ignore[arg-type]


@emits(aten.sym_size.int)
def _sym_size(e: Emitter, node: Node) -> str:
    axis = int(node.args[1])  # type: ignore[arg-type]
    return e.op("Shape", [e.value(node.args[0])], start=axis, end=axis + 1)


_SYMBOLIC = {operator.mul: "Mul", operator.add: "Add", operator.sub: "Sub", operator.floordiv: "Div"}


@emits(*_SYMBOLIC)
def _symbolic(e: Emitter, node: Node) -> str:
    """Arithmetic on sizes; they are positive, so integer division is the floor."""
    sides = [e.size(a) for a in node.args]
    return e.op(_SYMBOLIC[node.target], [s if isinstance(s, str) else e.ints([s]) for s in sides])  # type: ignore[index]


@emits(aten.full.default, aten.zeros.default, aten.ones.default, aten.new_zeros.default, aten.new_ones.default,
       aten.new_full.default, aten.empty.memory_format, aten.zeros_like.default, aten.ones_like.default,
       aten.full_like.default)  # fmt: skip
def _filled(e: Emitter, node: Node) -> str:
    name = str(node.target)
    number: Any = 1 if "ones" in name else 0
    like = "like" in name
    if "full" in name:
        number = node.args[2] if "new_full" in name else node.args[1]
    scalar = e.const(number, val(node).dtype)
    if like:
        return e.op("Expand", [scalar, e.op("Shape", [e.value(node.args[0])])])
    return e.op("Expand", [scalar, e.shape(node.args[1] if "new_" in name else node.args[0])])  # type: ignore[arg-type]


@emits(aten.fill.Tensor, aten.fill.Scalar)
def _fill(e: Emitter, node: Node) -> str:
    return e.op("Expand", [e.operand(node.args[1], val(node).dtype), e.op("Shape", [e.value(node.args[0])])])


@emits(aten.arange.default, aten.arange.start, aten.arange.start_step)
def _arange(e: Emitter, node: Node) -> str:
    start, end, step = ([0, *node.args] if len(node.args) == 1 else list(node.args)) + (
        [1] if len(node.args) < 3 else []
    )
    return e.op("Range", [e.operand(v, val(node).dtype) for v in (start, end, step)])


@emits(aten._to_copy.default, aten.type_as.default)
def _cast(e: Emitter, node: Node) -> str:
    return e.op("Cast", [e.value(node.args[0])], to=ONNX_TYPES[val(node).dtype])


@emits(aten.topk.default)
def _topk(e: Emitter, node: Node) -> tuple[str, ...]:
    x, k = node.args[:2]
    axis = _axis(node, literal(node, 2, "dim", -1))
    return tuple(
        e.ops("TopK", [e.value(x), e.shape([k])], 2, axis=axis, largest=int(literal(node, 3, "largest", True)))
    )
