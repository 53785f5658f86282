"""What stays of each node's result when features go."""

from __future__ import annotations

import torch
from torch.fx import Node

from vitc.errors import PassError
from vitc.graph.nodes import where
from vitc.passes.pruning.find.flow import Flow
from vitc.passes.pruning.find.groups import path_of
from vitc.passes.pruning.find.tags import NOBODY, core

#: For each dimension, which entries stay; None: all.
Masks = tuple[torch.Tensor | None, ...]


class CannotCut(PassError):
    """What stays of a node's operands is nothing that it can take. `layers` make the features it is about."""

    def __init__(self, message: str, layers: tuple[str, ...]) -> None:
        super().__init__(message)
        self.layers = layers


class Survivors:
    """What stays of the results in a flow without the features marked in `removed` [features]."""

    def __init__(self, flow: Flow, removed: torch.Tensor) -> None:
        self._flow, self._removed = flow, removed
        self._found: dict[Node, tuple[Masks, ...]] = {}

    def of(self, node: Node) -> Masks | None:
        """The masks of a node's one result; None if all of it stays, or it has several."""
        results = self._results(node)
        return results[0] if len(results) == 1 and self.loses(node) else None

    def loses(self, node: Node) -> bool:
        """Whether any result of a node loses entries."""
        return any(mask is not None for masks in self._results(node) for mask in masks)

    def refusal(self, node: Node, why: str) -> CannotCut:
        """The error for a node that cannot go on with what stays, with the layers whose features it is about."""
        tags = self._tags(node)
        features = torch.cat([core(t).flatten() for t in tags]).unique().long()
        makers = self._flow.made_by[features[features != NOBODY]].unique().tolist()
        layers = list(dict.fromkeys(path_of(self._flow.sources[i].node) for i in makers))
        return CannotCut(f"{where(node)} {why}; keep={layers} leaves its features alone", tuple(layers))

    def _results(self, node: Node) -> tuple[Masks, ...]:
        if node not in self._found:
            masks = [rectangle(tags, self._removed) for tags in self._tags(node)]
            found = tuple(m for m in masks if m is not None)
            if len(found) < len(masks):
                raise self.refusal(node, "would not be left with a rectangle of features")
            self._found[node] = found
        return self._found[node]

    def _tags(self, node: Node) -> tuple[torch.Tensor, ...]:
        tags = self._flow.tags.get(node, ())
        return tags if isinstance(tags, tuple) else (tags,)


def rectangle(tags: torch.Tensor, removed: torch.Tensor) -> Masks | None:
    """One mask a dimension whose product is what stays of the tensor; None where that is not a rectangle."""
    small = core(tags)
    nobody = small == NOBODY
    keep = ~removed[small.clamp(0).long()] | nobody
    if bool(keep.all()):
        return (None,) * keep.ndim
    masks: list[torch.Tensor | None] = []
    product = torch.ones_like(keep)
    for dim in range(keep.ndim):
        by_entry = keep.movedim(dim, 0).reshape(keep.shape[dim], -1)
        free = nobody.movedim(dim, 0).reshape(keep.shape[dim], -1)
        mask = (by_entry & ~free).any(1) | free.all(1)
        masks.append(None if bool(mask.all()) else mask)
        product &= mask.reshape([-1 if d == dim else 1 for d in range(keep.ndim)])
    return tuple(masks) if torch.equal(product | nobody, keep) else None
