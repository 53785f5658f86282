"""Which operators INT8 is for."""

from __future__ import annotations

import torch
from torch.fx import Node

from vitc.graph.nodes import is_constant, is_tensor

aten, ops = torch.ops.aten, torch.ops.vitc


def is_head(linear: Node) -> bool:
    """A linear that no other linear or attention follows, and no residual add: a model without a head ends in a block's own."""
    seen, stack = set(), list(linear.users)
    while stack:
        user = stack.pop()
        if user in seen:
            continue
        seen.add(user)
        if user.target in (aten.linear.default, ops.attention.default, aten.conv2d.default):
            return False
        if user.target is aten.add.Tensor and sum(is_tensor(a) and not is_constant(a) for a in user.args) == 2:
            return False
        stack += list(user.users)
    return True
