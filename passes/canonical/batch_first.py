"""batch-first: sequence-first linears ([N, B, C], as nn.MultiheadAttention has them) become batch-first.

A linear acts on the last dimension only, so any rearrangement of the others commutes with it. Moved behind the linear,
the rearrangement meets its own inverse, or becomes part of the attention that tile-attention absorbs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from vitc.graph import Rewriter, shape_of
from vitc.graph.movement import ancestry, example_shape, indices, moved_from, replay
from vitc.graph.nodes import is_tensor
from vitc.graph.program import Program
from vitc.pipeline import Pass, register_pass

aten = torch.ops.aten


@register_pass
@dataclass(frozen=True)
class BatchFirst(Pass):
    """Pushes transposes and views in front of a linear behind it, and cancels chains that move nothing."""

    name = "batch-first"
    after = ("drop-noops",)
    before = ("fuse-attention",)

    def run(self, program: Program) -> Program:
        rewriter = Rewriter(program.module, self.name)
        for node in list(program.graph.nodes):
            if node.target is aten.linear.default:
                _push_behind(rewriter, node)
        for node in list(program.graph.nodes):
            _cancel(rewriter, node)
        rewriter.finish()
        return program


def _push_behind(rewriter: Rewriter, linear: Node) -> None:
    moved: Node = linear.args[0]  # type: ignore[assignment]
    chain = ancestry(moved)
    source = next((n for n in chain[1:] if len(shape_of(n)) == 3 and _batch_dim(n) == 0), None)
    if source is None or shape_of(source)[-1] != shape_of(moved)[-1]:
        return
    _, tokens, width = example_shape(source)
    rows = replay(moved, source, indices(source)).reshape(-1, width) // width
    if not bool((rows == rows[:, :1]).all()):  # the last dimension is not left alone
        return
    images = rows[:, 0] // tokens
    if torch.equal(images, images.sort().values):  # batch-first already: windows, rows and columns
        return
    path = chain[: chain.index(source)][::-1]
    if any(_names_width(n) for n in path):
        return
    with rewriter.at(linear):
        result = rewriter.call(aten.linear.default, source, *linear.args[1:])
        out = shape_of(linear)[-1]
        for step in path:
            if step.target is aten.reshape.default:
                sizes: list[Any] = list(step.args[1])  # type: ignore[arg-type]
                result = rewriter.call(aten.reshape.default, result, [*sizes[:-1], out])
            else:
                result = rewriter.call(step.target, result, *step.args[1:])  # type: ignore[arg-type]
    rewriter.replace(linear, result)


def _names_width(node: Node) -> bool:
    """An operator whose arguments depend on the last dimension's size in a way that cannot be carried over."""
    return node.target not in (aten.reshape.default, aten.transpose.int, aten.permute.default)


def _batch_dim(node: Node) -> int | None:
    """The one dimension that is the dynamic batch itself, or None (static, or merged with another)."""
    dims = [i for i, s in enumerate(shape_of(node)) if not isinstance(s, int)]
    if len(dims) != 1:
        return None
    return dims[0] if str(shape_of(node)[dims[0]]).isidentifier() else None


def _cancel(rewriter: Rewriter, node: Node) -> None:
    """A chain of movements that ends where it began is removed."""
    if node.op != "call_function" or not is_tensor(node) or moved_from(node) is None:
        return
    for source in reversed(ancestry(node)[1:]):
        if not is_tensor(source) or example_shape(source) != example_shape(node):
            continue
        start = indices(source)
        if torch.equal(replay(node, source, start), start):
            rewriter.replace(node, source)
            return
