"""Literal sizes and positions in the arguments of data movement become those of what stays."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch.fx import Node

from vitc.errors import InternalError
from vitc.graph import Rewriter
from vitc.graph.movement import example_shape, example_size
from vitc.graph.nodes import argument, operand, where
from vitc.passes.pruning.cut.survivors import Masks, Survivors

aten = torch.ops.aten
_SIZED = {aten.view.default, aten._unsafe_view.default, aten.reshape.default, aten.expand.default}
_SPLITS = {aten.chunk.default, aten.split.Tensor, aten.split_with_sizes.default, aten.split.sizes}
Edit: TypeAlias = "dict[str, Any]"
"""What of an operator changes, as Rewriter.edit takes it."""


@dataclass(frozen=True)
class Resizer:
    """Writes the surviving sizes into the arguments of data movement.

    rewriter:   changes the graph.
    survivors:  what stays of each node's result.
    batch:      the node that is the batch size; None where the graph has none.
    batch_size: what the example inputs have for it.
    """

    rewriter: Rewriter
    survivors: Survivors
    batch: Node | None
    batch_size: int

    def edit(self, node: Node) -> Edit:
        """The arguments of one operator afterwards. Raises PassError where the positions cannot be carried over."""
        before, after = self.survivors.of(operand(node)), self.survivors.of(node)
        args: list[Any] = list(node.args)
        if node.target in _SIZED and after is not None:
            args[1] = self._sizes(after, args[1], node)
        elif node.target is operator.getitem or before is None:
            return {}
        elif node.target is aten.unflatten.int and after is not None:
            dim = args[1] % len(before)
            args[2] = self._sizes(after[dim : dim + len(args[2])], args[2], node)
        elif node.target is aten.slice.Tensor:
            args = self._slice(node, before)
        elif node.target is aten.select.int and (mask := before[args[1] % len(before)]) is not None:
            args[2] = int(mask[: args[2] % len(mask)].sum())
        elif node.target in _SPLITS:
            dim = argument(node, 2, "dim", 0) % len(before)
            if (mask := before[dim]) is not None:
                parts = mask.split([int(v.shape[dim]) for v in node.meta["val"]])
                sizes = [int(p.sum()) for p in parts]
                return {"target": aten.split_with_sizes.default, "args": [args[0], sizes, dim], "kwargs": {}}
        elif any(before[d] is not None for d in _dims_by_position(node)):
            raise self.survivors.refusal(node, "goes by position along a dimension that would be pruned")
        return {"args": args}

    def _sizes(self, masks: Masks, sizes: Sequence[Any], node: Node) -> list[Any]:
        return [self._size(mask, size, node) for mask, size in zip(masks, sizes, strict=True)]

    def _size(self, mask: torch.Tensor | None, size: Any, node: Node) -> Any:
        """A literal size, or one computed from the batch, after pruning."""
        if mask is None or (isinstance(size, int) and size == -1):
            return size
        count = int(mask.sum())
        if not isinstance(size, Node):
            return count
        if self.batch is None or count % self.batch_size:  # features are the same for every image
            raise InternalError(
                f"{where(node)} has a dynamic dimension of which {count} of {example_size(size)} would stay"
            )
        with self.rewriter.at(node):
            return self.rewriter.call(operator.mul, self.batch, count // self.batch_size)

    def _slice(self, node: Node, before: Masks) -> list[Any]:
        source, shape = operand(node), example_shape(operand(node))
        dim = argument(node, 1, "dim", 0) % len(shape)
        mask = before[dim]
        if mask is None:
            return list(node.args)
        low, high, step = argument(node, 2, "start"), argument(node, 3, "end"), argument(node, 4, "step", 1)
        wanted = torch.arange(shape[dim])[low:high:step]
        wanted = wanted[mask[wanted]]
        kept = mask.nonzero().flatten()
        if not len(wanted):
            return [source, dim, 0, 0]
        start = int((kept < wanted[0]).sum())
        end = int((kept <= wanted[-1]).sum())
        if not torch.equal(kept[start:end:step], wanted):
            raise self.survivors.refusal(node, f"takes each entry number {step} of a dimension that would be pruned")
        return [source, dim, start, end, step]


def _dims_by_position(node: Node) -> list[int]:
    """The dimensions along which an operator goes by position, in a way that does not survive pruning."""
    if node.target in (aten.roll.default, aten.flip.default):
        return list(argument(node, len(node.args) - 1))
    if node.target in (aten.index_select.default, aten.unbind.int, aten.unfold.default):
        return [int(argument(node, 1, "dim", 0))]
    if node.target is aten.index.Tensor:
        return [d for d, index in enumerate(argument(node, 1)) if index is not None]
    return []
