"""Removing features: every weight they touch is sliced, every size written in the graph becomes the surviving count."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch.fx import Node
from torch.fx.node import map_arg

from vitc.errors import InternalError, PassError
from vitc.graph import Rewriter, constant
from vitc.graph.movement import example_shape, example_size
from vitc.graph.nodes import is_constant, is_tensor, where
from vitc.passes.pruning.flow import Flow
from vitc.passes.pruning.groups import path_of
from vitc.passes.pruning.names import take_names
from vitc.passes.pruning.rules import BINARY, LAYERS, channel_dim, is_depthwise, sdpa
from vitc.passes.pruning.tags import NOBODY, core
from vitc.program import Program

aten = torch.ops.aten
_SIZED = {aten.view.default, aten._unsafe_view.default, aten.reshape.default, aten.expand.default}
_SPLITS = {aten.chunk.default, aten.split.Tensor, aten.split_with_sizes.default, aten.split.sizes}
_NORMS = {aten.layer_norm.default, aten.rms_norm.default}

#: For each dimension, which entries stay; None: all.
Masks = tuple[torch.Tensor | None, ...]


def shrink(program: Program, flow: Flow, removed: torch.Tensor, content: torch.Tensor | None = None, made_by: str = "prune") -> None:
    """Takes the features marked in `removed` [features] out of the program, in place.

    `content`: which feature's weights a kept feature has afterwards (default: its own). Permuting the dimensions of a head
    this way lets each head lose other dimensions, though the graph only knows one head size.
    Raises PassError, naming the node and the layers to keep, where the graph cannot go without these features.
    """
    if content is None:
        content = torch.arange(flow.count)
    editor = _Editor(program, flow, removed, content, made_by)
    nodes = list(program.graph.nodes)
    for node in nodes:
        editor.edit(node)
    for node in program.graph.nodes:
        editor.retype(node)
    editor.rewriter.finish()
    take_names(program.module, editor.renamed)


def survivors(tags: torch.Tensor, removed: torch.Tensor) -> Masks | None:
    """One mask a dimension whose product is what stays of the tensor; None where that is not a rectangle."""
    small = core(tags)
    nobody = small == NOBODY
    keep = ~removed[small.clamp(0).long()] | nobody
    if bool(keep.all()):
        return (None,) * keep.ndim
    masks: list[torch.Tensor | None] = []
    product = torch.ones_like(keep)
    for dim in range(keep.ndim):
        by_entry = keep.movedim(dim, 0).reshape(keep.shape[dim], -1)
        free = nobody.movedim(dim, 0).reshape(keep.shape[dim], -1)
        mask = (by_entry & ~free).any(1) | free.all(1)
        masks.append(None if bool(mask.all()) else mask)
        product &= mask.reshape([-1 if d == dim else 1 for d in range(keep.ndim)])
    return tuple(masks) if torch.equal(product | nobody, keep) else None


class _Editor:
    """Slices and rewrites one node at a time."""

    def __init__(self, program: Program, flow: Flow, removed: torch.Tensor, content: torch.Tensor, made_by: str) -> None:
        self.rewriter = Rewriter(program.module, made_by)
        self.flow, self.removed, self.content = flow, removed, content
        self.first = {s.node: s.first for s in flow.sources}
        self.batch = next((n for n in program.graph.nodes if n.target is aten.sym_size.int), None)
        self.batch_size = program.example_inputs[0].shape[0]
        self.parameters = {name for name, _ in program.module.named_parameters(remove_duplicate=False)}
        self.renamed: dict[str, list[str]] = {}
        self._masks: dict[Node, Any] = {}
        self._sliced: dict[tuple[Any, ...], Node] = {}
        self._changed: set[Node] = set()

    def edit(self, node: Node) -> None:
        if node.op != "call_function":
            return
        if node.target in LAYERS and is_constant(node.args[1]):
            self._layer(node)
        elif node.target is sdpa:
            self._attention(node)
        elif node.target in BINARY or node.target is aten.cat.default:
            self._follow(node)
        elif node.target in _NORMS or node.target is aten.group_norm.default:
            self._norm(node)
        elif node.args and isinstance(node.args[0], Node) and (self.masks(node) or self.masks(node.args[0])):
            self._sizes(node)

    def retype(self, node: Node) -> None:
        """The value of a node whose operands changed."""
        if node.op != "call_function" or not (node in self._changed or any(n in self._changed for n in node.all_input_nodes)):
            return
        self._changed.add(node)
        args = map_arg(node.args, lambda n: n.meta["val"])
        kwargs = map_arg(dict(node.kwargs), lambda n: n.meta["val"])
        try:
            with self.rewriter.fake_mode:
                node.meta["val"] = node.target(*args, **kwargs)
        except Exception as error:  # the rules let no such operator through
            raise InternalError(f"{where(node)} does not fit its pruned operands: {error}") from error

    def masks(self, node: Node) -> Any:
        """The masks of a node's result (a tuple of them for several results); None if all of it stays."""
        if node not in self._masks:
            tags = self.flow.tags.get(node)
            found: Any = None
            if isinstance(tags, tuple):
                found = tuple(self._survivors(t, node) for t in tags)
                found = found if any(m is not None for t in found for m in t) else None
            elif tags is not None:
                found = self._survivors(tags, node)
                found = found if any(m is not None for m in found) else None
            self._masks[node] = found
        return self._masks[node]

    def _survivors(self, tags: torch.Tensor, node: Node) -> Masks:
        masks = survivors(tags, self.removed)
        if masks is None:
            raise self._refusal(node, tags, "would not be left with a rectangle of features")
        return masks

    def _refusal(self, node: Node, tags: torch.Tensor, why: str) -> PassError:
        features = core(tags).unique().long()
        makers = self.flow.made_by[features[features != NOBODY]].unique().tolist()
        layers = list(dict.fromkeys(path_of(self.flow.sources[i].node) for i in makers))
        return PassError(f"{where(node)} {why}; keep={layers} leaves its features alone")

    # Weights.

    def _layer(self, node: Node) -> None:
        rows, columns = self._rows(node), self._columns(node)
        if rows is None and columns is None:
            return
        args = list(node.args)
        args[1] = self._slice(args[1], {0: rows, 1: None if is_depthwise(node) else columns}, node)
        if is_depthwise(node) and rows is not None:
            args[6] = len(rows)
        if len(args) > 2 and isinstance(args[2], Node):
            args[2] = self._slice(args[2], {0: rows}, node)
        node.args = tuple(args)
        self._changed.add(node)

    def _rows(self, node: Node) -> torch.Tensor | None:
        """The rows of the weight that stay, in their new order."""
        if is_depthwise(node):
            return self._columns(node)
        first, width = self.first[node], example_shape(node)[channel_dim(node)]
        slots = torch.arange(first, first + width)
        rows = self.content[slots[~self.removed[slots]]] - first
        return None if torch.equal(rows, torch.arange(width)) else rows

    def _columns(self, node: Node) -> torch.Tensor | None:
        if node not in self.flow.columns:
            return None
        feature = self.flow.columns[node].long()
        stays = ~self.removed[feature.clamp(0)] | (feature == NOBODY)
        columns = stays.nonzero().flatten()
        wanted = torch.where(feature == NOBODY, NOBODY, self.content[feature.clamp(0)])[columns]
        moved = wanted != feature[columns]
        if bool(moved.any()):
            place = {f: i for i, f in enumerate(feature.tolist())}
            columns[moved] = torch.tensor([place[f] for f in wanted[moved].tolist()])
        return None if len(columns) == len(feature) and not bool(moved.any()) else columns

    def _slice(self, weight: Node, index: dict[int, torch.Tensor | None], user: Node) -> Node:
        """The weight with only the given entries; one weight sliced the same way twice stays one."""
        index = {dim: i for dim, i in index.items() if i is not None}
        if not index:
            return weight
        key = (weight.target, *((dim, *i.tolist()) for dim, i in index.items()))
        if key not in self._sliced:
            value = constant(self.rewriter.module, weight)
            trainable = str(weight.target) in self.parameters
            for dim, i in index.items():
                value = value.index_select(dim, i)
            name = self.rewriter.unique_name(f"{weight.target}_pruned")
            with self.rewriter.at(user):
                self._sliced[key] = self.rewriter.parameter(name, value.contiguous(), trainable)
            self.renamed.setdefault(str(weight.target), []).append(name)
        return self._sliced[key]

    def _select(self, node: Node, dim: int, mask: torch.Tensor, user: Node) -> Node:
        """`node` with only the kept entries of one dimension: what it is made of is sliced as near to the weights as can be."""
        dim %= len(example_shape(node))
        if is_constant(node):
            return self._slice(node, {dim: mask.nonzero().flatten()}, user)
        with self.rewriter.at(user):
            if node.target in BINARY:
                operands = [
                    self._select(a, dim - len(example_shape(node)), mask, user)
                    if is_tensor(a) and _size_from_end(a, dim - len(example_shape(node))) > 1
                    else a
                    for a in node.args
                ]
                return self.rewriter.call(node.target, *operands, **node.kwargs)
            source = node.args[0]
            if node.target is aten.repeat.default and node.args[1][dim] == 1:
                offset = len(example_shape(node)) - len(example_shape(source))
                if dim >= offset:
                    return self.rewriter.call(node.target, self._select(source, dim - offset, mask, user), node.args[1])
            if node.target is aten.expand.default and _size_from_end(source, dim - len(example_shape(node))) > 1:
                sizes = list(node.args[1])
                sizes[dim] = -1
                narrow = self._select(source, dim - len(sizes), mask, user)
                return self.rewriter.call(aten.expand.default, narrow, sizes)
            name = self.rewriter.unique_name(f"{user.name}_kept")
            index = self.rewriter.parameter(name, mask.nonzero().flatten())
            return self.rewriter.call(aten.index_select.default, node, dim, index)

    # Operators.

    def _attention(self, node: Node) -> None:
        q = node.args[0]
        masks = self.masks(q)
        if masks is None:
            if self.masks(node) is not None:
                self._changed.add(node)
            return
        kwargs, args = dict(node.kwargs), list(node.args)
        if kwargs.get("scale") is None:  # the default would follow the pruned head size
            kwargs["scale"] = float(example_shape(q)[-1]) ** -0.5
        heads = masks[-3]
        bias = args[3] if len(args) > 3 else kwargs.get("attn_mask")
        if heads is not None and isinstance(bias, Node) and _size_from_end(bias, -3) > 1:
            narrow = self._select(bias, -3, heads, node)
            if len(args) > 3:
                args[3] = narrow
            else:
                kwargs["attn_mask"] = narrow
        node.args, node.kwargs = tuple(args), kwargs
        self._changed.add(node)

    def _follow(self, node: Node) -> None:
        """A weight that meets features elementwise, or stands beside them, loses the same entries."""
        masks = self.masks(node)
        if masks is None:
            return
        joined: Any = node.args[0] if node.target is aten.cat.default else node.args
        at = None
        if node.target is aten.cat.default:
            at = (node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)) % len(masks)
        operands = []
        for operand in joined:
            if is_tensor(operand) and operand not in self.flow.tags:
                for dim in range(-len(example_shape(operand)), 0):
                    mask = masks[dim] if len(masks) + dim != at else None
                    if mask is not None and _size_from_end(operand, dim) > 1:
                        operand = self._select(operand, dim, mask, node)
            operands.append(operand)
        node.args = tuple(operands) if at is None else (operands, *node.args[1:])
        self._changed.add(node)

    def _norm(self, node: Node) -> None:
        masks = self.masks(node)
        if masks is None:
            return
        args = list(node.args)
        if node.target is aten.group_norm.default:
            own = {0: None if masks[1] is None else masks[1].nonzero().flatten()}
        else:
            last = masks[len(masks) - len(args[1]) :]
            args[1] = [s if m is None else int(m.sum()) for m, s in zip(last, args[1], strict=True)]
            own = {dim: None if m is None else m.nonzero().flatten() for dim, m in enumerate(last)}
        for i in range(2, len(args)):
            if isinstance(args[i], Node):
                args[i] = self._slice(args[i], own, node)
        node.args = tuple(args)
        self._changed.add(node)

    def _sizes(self, node: Node) -> None:
        """Literal sizes and positions in the arguments of data movement."""
        self._changed.add(node)
        before, after = self.masks(node.args[0]), self.masks(node)
        args: list[Any] = list(node.args)
        if node.target in _SIZED and after is not None:
            args[1] = [self._size(m, s, node) for m, s in zip(after, args[1], strict=True)]
        elif node.target is operator.getitem or before is None:
            return
        elif node.target is aten.unflatten.int and after is not None:
            dim = args[1] % len(before)
            args[2] = [self._size(m, s, node) for m, s in zip(after[dim : dim + len(args[2])], args[2], strict=True)]
        elif node.target is aten.slice.Tensor:
            args = self._slice_args(node, before)
        elif node.target is aten.select.int and (mask := before[args[1] % len(before)]) is not None:
            args[2] = int(mask[: args[2] % len(mask)].sum())
        elif node.target in _SPLITS:
            dim = int(args[2] if len(args) > 2 else node.kwargs.get("dim", 0)) % len(before)
            if before[dim] is not None:
                parts = before[dim].split([int(v.shape[dim]) for v in node.meta["val"]])
                node.target, node.kwargs = aten.split_with_sizes.default, {}
                args = [args[0], [int(p.sum()) for p in parts], dim]
        elif (dims := _fixed_dims(node)) and any(before[d] is not None for d in dims):
            raise self._refusal(node, self.flow.tags[node.args[0]], "goes by position along a dimension that would be pruned")
        node.args = tuple(args)

    def _size(self, mask: torch.Tensor | None, size: Any, node: Node) -> Any:
        """A literal size, or one computed from the batch, after pruning."""
        if mask is None or (isinstance(size, int) and size == -1):
            return size
        count = int(mask.sum())
        if not isinstance(size, Node):
            return count
        if self.batch is None or count % self.batch_size:  # features are the same for every image
            raise InternalError(f"{where(node)} has a dynamic dimension of which {count} of {example_size(size)} would stay")
        with self.rewriter.at(node):
            return self.rewriter.call(operator.mul, self.batch, count // self.batch_size)

    def _slice_args(self, node: Node, before: Masks) -> list[Any]:
        args: list[Any] = list(node.args)
        shape = example_shape(args[0])
        dim = (args[1] if len(args) > 1 else 0) % len(shape)
        mask = before[dim]
        if mask is None or len(args) < 3:
            return args
        step = args[4] if len(args) > 4 else 1
        low, high = args[2] or 0, min(args[3], shape[dim]) if len(args) > 3 and args[3] is not None else shape[dim]
        wanted = torch.arange(shape[dim])[low:high:step]
        wanted = wanted[mask[wanted]]
        kept = mask.nonzero().flatten()
        if not len(wanted):
            return [args[0], dim, 0, 0]
        start = int((kept < wanted[0]).sum())
        end = int((kept <= wanted[-1]).sum())
        if not torch.equal(kept[start:end:step], wanted):
            raise self._refusal(node, self.flow.tags[args[0]], f"takes each entry number {step} of a dimension that would be pruned")
        return [args[0], dim, start, end, step]


def _fixed_dims(node: Node) -> list[int]:
    """The dimensions along which an operator goes by position, in a way that does not survive pruning."""
    if node.target in (aten.roll.default, aten.flip.default):
        return list(node.args[-1])
    if node.target in (aten.index_select.default, aten.unbind.int, aten.unfold.default):
        return [int(node.args[1]) if len(node.args) > 1 else 0]
    if node.target is aten.index.Tensor:
        return [d for d, index in enumerate(node.args[1]) if index is not None]
    return []


def _size_from_end(node: Node, dim: int) -> int:
    shape = example_shape(node)
    return shape[dim] if -dim <= len(shape) else 1
