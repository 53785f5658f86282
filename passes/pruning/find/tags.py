"""Tags: which feature each element of a tensor belongs to.

A tag tensor is an int32 tensor with the shape of the activation it stands for: the number of the feature that the
element belongs to, or −1 where it belongs to none. Features nearly always repeat along the batch and the tokens, so
those dimensions are kept with stride 0 (`Tensor.expand`): the tags of a ViT-H activation occupy a few kilobytes.
"""

from __future__ import annotations

import torch

#: The tag of an element that belongs to no feature.
NOBODY = -1


def core(tags: torch.Tensor) -> torch.Tensor:
    """The tags without their repetitions: every dimension along which they are constant has size 1."""
    for dim in range(tags.ndim):
        if tags.shape[dim] > 1 and tags.stride(dim) == 0:
            tags = tags.narrow(dim, 0, 1)
    for dim in range(tags.ndim):
        if tags.shape[dim] > 1 and bool((tags == (first := tags.narrow(dim, 0, 1))).all()):
            tags = first
    return tags


def packed(tags: torch.Tensor) -> torch.Tensor:
    """The same tags with every repetition at stride 0."""
    return core(tags).expand(tags.shape)


def varies(tags: torch.Tensor, *dims: int) -> bool:
    """Whether the tags differ along any of the dimensions."""
    small = core(tags)
    return any(small.shape[dim] > 1 for dim in dims)


def without(tags: torch.Tensor, dims: tuple[int, ...], keepdim: bool = False) -> torch.Tensor:
    """The tags after a reduction over `dims`, along which they are constant."""
    kept = tags
    for dim in dims:
        kept = kept.narrow(dim, 0, 1)
    return kept if keepdim else kept.squeeze(dims)
