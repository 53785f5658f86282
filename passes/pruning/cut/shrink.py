"""Removing features: every weight they touch is sliced, every size written in the graph becomes the surviving count."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from vitc.errors import InternalError, PassError
from vitc.graph import Rewriter, constant
from vitc.graph.movement import example_shape
from vitc.graph.nodes import argument, called, is_constant, is_tensor, operand, where
from vitc.graph.program import Program
from vitc.passes.pruning.cut.names import take_names
from vitc.passes.pruning.cut.sizes import Edit, Resizer
from vitc.passes.pruning.cut.survivors import Masks, Survivors
from vitc.passes.pruning.find.flow import Flow
from vitc.passes.pruning.find.layers import LAYERS, channel_dim, is_depthwise
from vitc.passes.pruning.find.products import sdpa
from vitc.passes.pruning.find.rules import BINARY
from vitc.passes.pruning.find.tags import NOBODY

aten = torch.ops.aten
_NORMS = {aten.layer_norm.default, aten.rms_norm.default}


def shrink(
    program: Program, flow: Flow, removed: torch.Tensor, content: torch.Tensor | None = None, made_by: str = "prune"
) -> None:
    """Takes the features marked in `removed` [features] out of the program, in place.

    content: which feature's weights a kept feature has afterwards (default: its own). Permuting the dimensions of a
             head this way lets each head lose other dimensions, though the graph only knows one head size.

    Raises PassError, naming the node and the layers to keep, where the graph cannot go without these features.
    """
    if content is None:
        content = torch.arange(flow.count)
    editor = _Editor(program, flow, removed, content, made_by)
    for node in list(program.graph.nodes):
        editor.plan(node)
    for node in list(program.graph.nodes):
        editor.edit(node)
    editor.rewriter.finish()
    take_names(editor.rewriter, editor.renamed)


class _Editor:
    """Slices and rewrites one node at a time: all of them are planned first, while the graph still has its shapes."""

    def __init__(
        self, program: Program, flow: Flow, removed: torch.Tensor, content: torch.Tensor, made_by: str
    ) -> None:
        self.rewriter = Rewriter(program.module, made_by)
        self.flow, self.removed, self.content = flow, removed, content
        self.first = {s.node: s.first for s in flow.sources}
        self.survivors = Survivors(flow, removed)
        batch = next((n for n in program.graph.nodes if n.target is aten.sym_size.int), None)
        self.resizer = Resizer(self.rewriter, self.survivors, batch, program.example_inputs[0].shape[0])
        self.parameters = {name for name, _ in program.module.named_parameters(remove_duplicate=False)}
        self.renamed: dict[str, list[str]] = {}
        self._sliced: dict[tuple[Any, ...], Node] = {}
        self._edits: dict[Node, Edit] = {}
        self._changed: set[Node] = set()

    def plan(self, node: Node) -> None:
        if node.op != "call_function":
            return
        if node.target in LAYERS and is_constant(node.args[1]):
            self._layer(node)
        elif node.target is sdpa:
            self._attention(node)
        elif node.target in BINARY:
            self._elementwise(node)
        elif node.target is aten.cat.default:
            self._concatenation(node)
        elif node.target in _NORMS or node.target is aten.group_norm.default:
            self._norm(node)
        elif (
            node.args
            and isinstance(node.args[0], Node)
            and (self.survivors.loses(node) or self.survivors.loses(node.args[0]))
        ):
            self._edits[node] = self.resizer.edit(node)

    def edit(self, node: Node) -> None:
        """What was planned for a node, or the type that follows from operands that changed."""
        if node.op != "call_function":
            return
        if node in self._edits or any(n in self._changed for n in node.all_input_nodes):
            try:
                self.rewriter.edit(node, **self._edits.get(node, {}))
            except PassError as error:  # the rules let no such operator through
                raise InternalError(f"{where(node)} does not fit its pruned operands: {error}") from error
            self._changed.add(node)

    # Weights.

    def _layer(self, node: Node) -> None:
        rows, columns = self._rows(node), self._columns(node)
        if rows is None and columns is None:
            return
        args: list[Any] = list(node.args)
        args[1] = self._slice(args[1], {0: rows, 1: None if is_depthwise(node) else columns}, node)
        if is_depthwise(node) and rows is not None:
            args[6] = len(rows)
        if len(args) > 2 and isinstance(args[2], Node):
            args[2] = self._slice(args[2], {0: rows}, node)
        self._edits[node] = {"args": args}

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
        narrowed = {dim: i for dim, i in index.items() if i is not None}
        if not narrowed:
            return weight
        key = (weight.target, *((dim, *i.tolist()) for dim, i in narrowed.items()))
        if key not in self._sliced:
            value = constant(self.rewriter.module, weight)
            trainable = str(weight.target) in self.parameters
            for dim, i in narrowed.items():
                value = value.index_select(dim, i)
            name = self.rewriter.unique_name(f"{weight.target}_pruned")
            with self.rewriter.at(user):
                self._sliced[key] = self.rewriter.parameter(name, value.contiguous(), trainable)
            self.renamed.setdefault(str(weight.target), []).append(name)
        return self._sliced[key]

    def _select(self, node: Node, dim: int, mask: torch.Tensor, user: Node) -> Node:
        """`node` with only the kept entries of one dimension: what it is made of is sliced as near to the weights as
        can be."""
        rank = len(example_shape(node))
        dim %= rank
        if is_constant(node):
            return self._slice(node, {dim: mask.nonzero().flatten()}, user)
        with self.rewriter.at(user):
            if node.target in BINARY:
                operands = [self._select_from_end(a, dim - rank, mask, user) for a in node.args]
                return self.rewriter.call(called(node), *operands, **node.kwargs)
            source = operand(node)
            if node.target is aten.repeat.default and argument(node, 1)[dim] == 1:
                offset = rank - len(example_shape(source))
                if dim >= offset:
                    return self.rewriter.call(
                        called(node), self._select(source, dim - offset, mask, user), node.args[1]
                    )
            if node.target is aten.expand.default and _size_from_end(source, dim - rank) > 1:
                sizes = list(argument(node, 1))
                sizes[dim] = -1
                narrow = self._select(source, dim - rank, mask, user)
                return self.rewriter.call(aten.expand.default, narrow, sizes)
            name = self.rewriter.unique_name(f"{user.name}_kept")
            index = self.rewriter.parameter(name, mask.nonzero().flatten())
            return self.rewriter.call(aten.index_select.default, node, dim, index)

    def _select_from_end(self, value: Any, dim: int, mask: torch.Tensor | None, user: Node) -> Any:
        """`value` with only the kept entries of a dimension that may be broadcast, counted from the last (−1)."""
        if mask is None or not is_tensor(value) or _size_from_end(value, dim) == 1:
            return value
        return self._select(value, dim, mask, user)

    # Operators.

    def _attention(self, node: Node) -> None:
        q = operand(node)
        masks = self.survivors.of(q)
        if masks is None:
            if self.survivors.of(node) is not None:
                self._edits[node] = {}
            return
        kwargs, args = dict(node.kwargs), list(node.args)
        if kwargs.get("scale") is None:  # the default would follow the pruned head size
            kwargs["scale"] = float(example_shape(q)[-1]) ** -0.5
        bias = self._select_from_end(argument(node, 3, "attn_mask"), -3, masks[-3], node)
        if len(args) > 3:
            args[3] = bias
        elif bias is not None:
            kwargs["attn_mask"] = bias
        self._edits[node] = {"args": args, "kwargs": kwargs}

    def _elementwise(self, node: Node) -> None:
        """A weight that meets features loses the same entries."""
        masks = self.survivors.of(node)
        if masks is not None:
            self._edits[node] = {"args": [self._follow(value, masks, node) for value in node.args]}

    def _concatenation(self, node: Node) -> None:
        """A weight that stands beside features loses the same entries, but not along the dimension in which it stands
        beside."""
        masks = self.survivors.of(node)
        if masks is not None:
            at = argument(node, 1, "dim", 0) % len(masks)
            across = tuple(None if dim == at else mask for dim, mask in enumerate(masks))
            parts = [self._follow(value, across, node) for value in argument(node, 0)]
            self._edits[node] = {"args": [parts, *node.args[1:]]}

    def _follow(self, value: Any, masks: Masks, user: Node) -> Any:
        """An operand: without the entries that go, if it is made of weights alone."""
        if is_tensor(value) and value not in self.flow.tags:
            for dim in range(-len(example_shape(value)), 0):
                value = self._select_from_end(value, dim, masks[dim], user)
        return value

    def _norm(self, node: Node) -> None:
        masks = self.survivors.of(node)
        if masks is None:
            return
        args: list[Any] = list(node.args)
        if node.target is aten.group_norm.default:
            own = masks[1:2]
        else:
            own = masks[len(masks) - len(args[1]) :]
            args[1] = [s if m is None else int(m.sum()) for m, s in zip(own, args[1], strict=True)]
        index = {dim: None if m is None else m.nonzero().flatten() for dim, m in enumerate(own)}
        for i in range(2, len(args)):
            if isinstance(args[i], Node):
                args[i] = self._slice(args[i], index, node)
        self._edits[node] = {"args": args}


def _size_from_end(node: Node, dim: int) -> int:
    shape = example_shape(node)
    return shape[dim] if -dim <= len(shape) else 1
