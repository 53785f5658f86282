"""Who reads a tensor's channels, however its rows are moved about in between."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.fx import Node

from vitc.graph import is_constant
from vitc.graph.movement import example_shape, indices, moved_from, replay
from vitc.graph.nodes import argument

aten = torch.ops.aten


def channel_readers(node: Node) -> list[Node] | None:
    """The linears that read `node` (directly or with its rows rearranged, each row whole); None if anything else
    does."""
    readers: list[Node] = []
    for user in node.users:
        if user.target is aten.linear.default and user.args[0] is node and is_constant(user.args[1]):
            readers.append(user)
        elif _keeps_rows(user, node):
            further = channel_readers(user)
            if further is None:
                return None
            readers += further
        else:
            return None
    return readers


def _keeps_rows(user: Node, node: Node) -> bool:
    channels = example_shape(node)[-1]
    if user.target is aten.roll.default:
        dims: Sequence[int] = argument(user, 2, "dims", ())
        return bool(dims) and len(example_shape(node)) - 1 not in [d % len(example_shape(node)) for d in dims]
    if moved_from(user) is not node or "val" not in user.meta or not isinstance(user.meta["val"], torch.Tensor):
        return False
    if example_shape(user)[-1:] != (channels,):
        return False
    moved = replay(user, node, indices(node)) % channels
    return bool((moved == torch.arange(channels)).all())
