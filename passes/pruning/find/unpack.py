"""Packed q, k and v get a head split of their own, so that each can have its own head size.

A view [B, N, 3, H, D] of one linear has one D for all three. Before dimensions of heads are pruned, it becomes three
slices with a split each; tile-attention finds the packed form again where the sizes stayed equal.
"""

from __future__ import annotations

import torch
from torch.fx import Node

from vitc.graph import Rewriter
from vitc.graph.movement import ancestry, example_shape, indices, moved_from, replay
from vitc.graph.nodes import is_tensor
from vitc.graph.program import Program

aten = torch.ops.aten


def unpack_heads(program: Program) -> Program:
    """The program with every [B, H, N, D] or [B·H, N, D] that is a part of a packed linear taken from it by a slice, in
    place."""
    rewriter = Rewriter(program.module, "prune")
    for node in list(program.graph.nodes):
        if (
            node.op != "call_function"
            or not is_tensor(node)
            or moved_from(node) is None
            or len(example_shape(node)) not in (3, 4)
        ):
            continue
        linear = ancestry(node)[-1]
        start = _start(node, linear)
        if start is None:
            continue
        heads, size = _heads(node), example_shape(node)[-1]
        with rewriter.at(node):
            part = rewriter.call(aten.slice.Tensor, linear, -1, start, start + heads * size)
            split = rewriter.call(aten.unflatten.int, part, -1, [heads, size])
            new = rewriter.call(aten.transpose.int, split, 1, 2)
            if len(example_shape(node)) == 3:
                new = rewriter.call(aten.reshape.default, new, [-1, *example_shape(node)[1:]])
        rewriter.replace(node, new)
    rewriter.finish()
    return program


def _heads(node: Node) -> int:
    """H of [B, H, N, D] or [B·H, N, D]; 0 if it is neither."""
    shape, batch = example_shape(node), example_shape(ancestry(node)[-1])[0]
    return shape[1] if len(shape) == 4 else shape[0] // batch if shape[0] % batch == 0 else 0


def _start(node: Node, linear: Node) -> int | None:
    """The first feature of `linear` in `node`, if that is heads of consecutive features but not all of them."""
    if linear.target is not aten.linear.default or len(example_shape(linear)) != 3:
        return None
    heads, (tokens, size) = _heads(node), example_shape(node)[-2:]
    batch, width = example_shape(linear)[0], example_shape(linear)[-1]
    if not heads or example_shape(linear)[1] != tokens or heads * size >= width:
        return None
    numbers = indices(linear)
    got = replay(node, linear, numbers)
    start = int(got.flatten()[0]) % width
    want = numbers[..., start : start + heads * size]
    if want.numel() != got.numel() or (heads == 1 and len(example_shape(node)) == 3):
        return None
    return (
        start if torch.equal(got, want.reshape(batch, tokens, heads, size).transpose(1, 2).reshape(got.shape)) else None
    )
