"""Which operators INT8 is for."""

from __future__ import annotations

import torch
from torch.fx import Node

aten, ops = torch.ops.aten, torch.ops.vitc


def is_head(linear: Node) -> bool:
    """A linear that no other linear or attention follows."""
    seen, stack = set(), list(linear.users)
    while stack:
        user = stack.pop()
        if user in seen:
            continue
        seen.add(user)
        if user.target in (aten.linear.default, ops.attention.default, aten.conv2d.default):
            return False
        stack += list(user.users)
    return True
