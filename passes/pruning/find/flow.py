"""The features of a program and what binds them.

A feature is one output of one layer: a row of a linear's weight, a channel of a convolution; or one head of an
attention. Features are numbered; each layer has a consecutive range. Following them through the graph
(vitc.passes.pruning.find.follow) finds which belong together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import networkx as nx
import torch
from torch.fx import Node

from vitc.passes.pruning.find.tags import NOBODY, core

Role = Literal["qk", "v", "whole"]
ROLES: tuple[Role, ...] = ("qk", "v", "whole")


@dataclass(frozen=True)
class Source:
    """`width` features from `first` on, made by a layer, or the heads of an attention."""

    node: Node
    first: int
    width: int


class Flow:
    """What was found out about the features of one program.

    `count` features, made by `sources`. `tags`: the tags of each node's result. `columns`: layer → the feature that
    each of its input columns reads. `ties`: pairs of features that can only go together; `joins`: the sources as a
    graph, an edge where they are tied, with the node that ties them. `reasons`: why features are frozen.
    """

    def __init__(self) -> None:
        self.sources: list[Source] = []
        self.tags: dict[Node, torch.Tensor | tuple[torch.Tensor, ...]] = {}
        self.columns: dict[Node, torch.Tensor] = {}
        self.ties: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.joins = nx.Graph()
        self.reasons: list[str] = []
        self.count = 0
        # A row of each for every property below, with room for features to come.
        self._numbers = torch.empty(4, 0, dtype=torch.int32)
        self._masks = torch.empty(3, 0, dtype=torch.bool)

    @property
    def made_by(self) -> torch.Tensor:
        """[features]: the position in `sources` of the one that makes a feature."""
        return self._numbers[0, : self.count]

    @property
    def parent(self) -> torch.Tensor:
        """[features]: the head that a feature is inside of, or NOBODY."""
        return self._numbers[1, : self.count]

    @property
    def role(self) -> torch.Tensor:
        """[features]: what a feature is inside of its head, as a position in `ROLES`, or NOBODY."""
        return self._numbers[2, : self.count]

    @property
    def frozen(self) -> torch.Tensor:
        """[features]: the position in `reasons` of why a feature may not go, or NOBODY."""
        return self._numbers[3, : self.count]

    @property
    def summed(self) -> torch.Tensor:
        """[features]: whether a feature is added to others on a residual stream."""
        return self._masks[0, : self.count]

    @property
    def normed(self) -> torch.Tensor:
        """[features]: whether a normalization takes its statistics over a feature."""
        return self._masks[1, : self.count]

    @property
    def indexed(self) -> torch.Tensor:
        """[features]: whether a feature meets a weight of its own index."""
        return self._masks[2, : self.count]

    def tags_of(self, node: Node) -> torch.Tensor | None:
        """The tags of a node's one result; None if it has several, or nothing is known of it."""
        tags = self.tags.get(node)
        return None if isinstance(tags, tuple) else tags

    def number(self, node: Node, width: int) -> torch.Tensor:
        """The tags of `width` new features made by `node`, [width]."""
        first, self.count = self.count, self.count + width
        missing = self.count - self._masks.shape[1]
        if missing > 0:  # twice the room, so that the rows are copied a few times and not once a layer
            self._numbers = torch.nn.functional.pad(self._numbers, (0, missing + self.count), value=NOBODY)
            self._masks = torch.nn.functional.pad(self._masks, (0, missing + self.count))
        self.made_by[first:] = len(self.sources)
        self.joins.add_node(len(self.sources))
        self.sources.append(Source(node, first, width))
        return torch.arange(first, self.count, dtype=torch.int32)

    def tie(self, a: torch.Tensor, b: torch.Tensor, at: Node) -> None:
        """The features in equal places of `a` and `b` go together."""
        a, b = torch.broadcast_tensors(core(a), core(b))
        differ = (a != b) & (a != NOBODY) & (b != NOBODY)
        if not bool(differ.any()):
            return
        left, right = _pairs(a[differ], b[differ])
        self.ties.append((left, right))
        for edge in zip(*(ends.tolist() for ends in _pairs(self.made_by[left], self.made_by[right])), strict=True):
            if edge not in self.joins.edges:
                self.joins.add_edge(*edge, at=at)

    def contain(self, inner: torch.Tensor, heads: torch.Tensor, role: Role, at: Node) -> None:
        """The features `inner` exist only inside the heads in equal places; both may be of any broadcastable shape."""
        inner, heads = torch.broadcast_tensors(core(inner), core(heads))
        real = (inner != NOBODY) & (heads != NOBODY) & (inner != heads)
        inside, outside = _pairs(inner[real], heads[real])
        known = self.parent[inside]
        self.tie(torch.where(known == NOBODY, outside, known), outside, at)
        self.parent[inside] = torch.where(known == NOBODY, outside.int(), known)
        number, was = ROLES.index(role), self.role[inside]
        self.role[inside] = torch.where((was != NOBODY) & (was != number), ROLES.index("whole"), number).int()

    def freeze(self, tags: torch.Tensor | tuple[torch.Tensor, ...] | None, reason: str) -> None:
        """None of the features may go, for the reason; an earlier reason stays."""
        for tensor in tags if isinstance(tags, tuple) else (tags,):
            if tensor is None:
                continue
            features = _features(tensor)
            features = features[self.frozen[features] == NOBODY]
            if len(features):
                self.reasons.append(reason)
                self.frozen[features] = len(self.reasons) - 1

    def mark(self, mask: torch.Tensor, tags: torch.Tensor) -> None:
        """Sets one of the masks for the features in `tags`."""
        mask[_features(tags)] = True


def _features(tags: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = core(tags).unique().long()
    return found[found != NOBODY]


def _pairs(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The different pairs of numbers from 0 on in equal places of `a` and `b`, sorted, int64."""
    both = ((a.long() << 32) | b.long()).unique()
    return both >> 32, both & 0xFFFFFFFF
