"""The features of a program and what binds them.

A feature is one output of one layer: a row of a linear's weight, a channel of a convolution; or one head of an
attention. Features are numbered; each layer has a consecutive range. Following them through the graph
(vitc.passes.pruning.rules) finds which belong together.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Literal

import networkx as nx
import torch
from torch.fx import Node

from vitc.passes.pruning.tags import NOBODY, core

Role = Literal["qk", "v", "whole"]
_ROLES: tuple[Role, ...] = ("qk", "v", "whole")


@dataclass(frozen=True)
class Source:
    """`width` features from `first` on, made by a layer, or the heads of an attention."""

    node: Node
    first: int
    width: int


@dataclass
class Flow:
    """What was found out about the features of one program.

    `tags`: the tags of each node's result. `columns`: layer → the feature that each of its input columns reads.
    `ties`: pairs of features that can only go together. `parent`: feature → the head it is inside of; `role`: as what.
    The masks mark features that are added to others on a residual stream (`summed`), that a normalisation takes its
    statistics over (`normed`), and that meet a weight of their own index (`indexed`). `frozen`: feature → reason number.
    `joins`: the sources as a graph, an edge where they are tied, with the node that ties them.
    """

    sources: list[Source] = field(default_factory=list)
    tags: dict[Node, torch.Tensor | tuple[torch.Tensor, ...]] = field(default_factory=dict)
    columns: dict[Node, torch.Tensor] = field(default_factory=dict)
    ties: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)
    joins: nx.Graph = field(default_factory=nx.Graph)
    reasons: list[str] = field(default_factory=list)
    count: int = 0

    def __post_init__(self) -> None:
        self.parent = torch.empty(0, dtype=torch.int32)
        self.frozen = torch.empty(0, dtype=torch.int32)
        self.role = torch.empty(0, dtype=torch.int8)
        self.summed, self.normed, self.indexed = (torch.empty(0, dtype=torch.bool) for _ in range(3))

    def number(self, node: Node, width: int) -> torch.Tensor:
        """The tags of `width` new features made by `node`, [width]."""
        self.sources.append(Source(node, self.count, width))
        numbers = torch.arange(self.count, self.count + width, dtype=torch.int32)
        self.count += width
        for name, fill in (("parent", NOBODY), ("frozen", NOBODY), ("role", NOBODY), ("summed", 0), ("normed", 0), ("indexed", 0)):
            old = getattr(self, name)
            setattr(self, name, torch.cat([old, old.new_full((width,), fill)]))
        self.joins.add_node(len(self.sources) - 1)
        return numbers

    def source_index(self, feature: int) -> int:
        """The position in `sources` of the one that makes a feature."""
        return bisect_right(self.sources, feature, key=lambda s: s.first) - 1

    def tie(self, a: torch.Tensor, b: torch.Tensor, at: Node) -> None:
        """The features in equal places of `a` and `b` go together."""
        a, b = torch.broadcast_tensors(core(a), core(b))
        differ = (a != b) & (a != NOBODY) & (b != NOBODY)
        if not bool(differ.any()):
            return
        pairs = torch.stack([a[differ], b[differ]], 1).unique(dim=0)
        self.ties.append((pairs[:, 0].long(), pairs[:, 1].long()))
        ends = torch.tensor([s.first for s in self.sources[1:]], dtype=torch.int32)
        for x, y in torch.bucketize(pairs, ends, right=True).unique(dim=0).tolist():
            if not self.joins.has_edge(x, y):
                self.joins.add_edge(x, y, at=at)

    def contain(self, inner: torch.Tensor, heads: torch.Tensor, role: Role, at: Node) -> None:
        """The features `inner` exist only inside the heads in equal places; both may be of any broadcastable shape."""
        inner, heads = torch.broadcast_tensors(core(inner), core(heads))
        pairs = torch.stack([inner.flatten(), heads.flatten()], 1).unique(dim=0)
        pairs = pairs[(pairs != NOBODY).all(1) & (pairs[:, 0] != pairs[:, 1])]
        inside, outside = pairs[:, 0].long(), pairs[:, 1]
        known = self.parent[inside]
        self.tie(torch.where(known == NOBODY, outside, known), outside, at)
        self.parent[inside] = torch.where(known == NOBODY, outside, known)
        number = _ROLES.index(role)
        was = self.role[inside]
        mixed = (was != NOBODY) & (was != number)
        self.role[inside] = torch.where(mixed, _ROLES.index("whole"), number).to(torch.int8)

    def role_of(self, feature: int) -> Role | None:
        """What a feature is inside of its head; None if it is in none."""
        number = int(self.role[feature])
        return None if number == NOBODY else _ROLES[number]

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
    found = core(tags).unique().long()
    return found[found != NOBODY]
