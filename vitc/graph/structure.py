"""Tensors in whatever structure a model takes or returns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils import _pytree as pytree


def tensors_of(value: Any) -> Iterator[torch.Tensor]:
    """The tensors of any structure, in order."""
    for leaf in pytree.tree_leaves(value):
        if isinstance(leaf, torch.Tensor):
            yield leaf
