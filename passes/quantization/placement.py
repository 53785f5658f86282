"""Which operators INT8 is for."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch.fx import Node

from vitc.graph.nodes import is_constant

aten, ops = torch.ops.aten, torch.ops.vitc


def is_head(linear: Node) -> bool:
    """A linear that no other linear or attention follows, and whose result does not go back to what it was computed
    from: a model without a head ends in a block's own linear and its residual add."""
    before = _reached(linear, lambda n: n.all_input_nodes)
    for user in _reached(linear, lambda n: n.users):
        if user.target in (aten.linear.default, ops.attention.default, aten.conv2d.default):
            return False
        if user.target is aten.add.Tensor and any(a in before and not is_constant(a) for a in user.all_input_nodes):
            return False
    return True


def _reached(node: Node, step: Callable[[Node], Iterable[Node]]) -> set[Node]:
    """Every node that repeated steps lead to."""
    seen: set[Node] = set()
    stack = list(step(node))
    while stack:
        found = stack.pop()
        if found not in seen:
            seen.add(found)
            stack += step(found)
    return seen
