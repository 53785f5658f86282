"""Dependency groups: what can be removed from a program, and what cannot. vitc.passes.pruning.find.grouping finds
them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal

import networkx as nx
import torch
from torch.fx import Node

from vitc.graph.nodes import module_path, operand, shape_of, where
from vitc.passes.pruning.find.flow import Flow
from vitc.passes.pruning.find.layers import LAYERS

Kind = Literal["mlp", "heads", "qk", "v", "width", "blocks"]


@dataclass(frozen=True)
class Group:
    """Units of which each can be removed without the others.

    name:    of the group, from the layers that make its features.
    kind:    mlp, heads, qk, v, width or blocks.
    units:   [units, features of each].
    sources: the layers (and attentions) that make the features.
    readers: the layers that read them.
    heads:   the head that each unit is in, where as many must go from each ('qk', 'v'); else None.
    width:   how many channels narrower the readers' input gets with one unit (inside of heads: the head; blocks: 0).
    exact:   removing features that are zero changes nothing; not so where a norm takes its statistics over them.
    """

    name: str
    kind: Kind
    units: torch.Tensor
    sources: tuple[Node, ...]
    readers: tuple[Node, ...]
    heads: torch.Tensor | None = None
    width: int = 1
    exact: bool = True

    def __len__(self) -> int:
        return len(self.units)

    @property
    def signature(self) -> tuple[object, ...]:
        """Equal for groups of the same structure: kind, and the shapes of all layers (arXiv 2407.04616)."""
        weights = [shape_of(operand(n, 1)) for n in (*self.sources, *self.readers) if n.target in LAYERS]
        return (self.kind, tuple(self.units.shape), *weights)


@dataclass(frozen=True)
class Refusal:
    """Features that cannot be removed, and why."""

    path: str
    count: int
    reason: str


@dataclass(frozen=True)
class Groups:
    """What can be removed from a program, what cannot, and the flow both come from."""

    flow: Flow
    groups: tuple[Group, ...]
    refused: tuple[Refusal, ...]

    def why_tied(self, first: str, second: str) -> list[str]:
        """The nodes that tie the features of two layers, given by module path, one after the other; empty if nothing
        does."""
        at = {path_of(s.node): i for i, s in enumerate(self.flow.sources)}
        if first not in at or second not in at or not nx.has_path(self.flow.joins, at[first], at[second]):
            return []
        route = nx.shortest_path(self.flow.joins, at[first], at[second])
        return [where(self.flow.joins.edges[edge]["at"]) for edge in pairwise(route)]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        groups = [
            {
                "name": g.name, "kind": g.kind, "units": len(g), "features": g.units.shape[1], "exact": g.exact,
                "sources": list(dict.fromkeys(path_of(n) for n in g.sources)),
                "readers": list(dict.fromkeys(path_of(n) for n in g.readers)),
            }
            for g in self.groups
        ]  # fmt: skip
        return {"groups": groups, "kept": [asdict(r) for r in self.refused]}

    def text(self) -> str:
        """One line for each group, then one for each refusal."""
        lines = []
        for group in self.groups:
            through = "" if group.exact else ", read through a norm"
            nobody = "" if group.kind == "blocks" else "attention"
            readers = ", ".join(dict.fromkeys(path_of(n) for n in group.readers)) or nobody
            lines.append(
                f"{group.kind:<6} {group.name:<36} {len(group)} units of {group.units.shape[1]} → {readers}{through}"
            )
        return "\n".join([*lines, *(f"kept   {r.path:<36} {r.count} features: {r.reason}" for r in self.refused)])


def path_of(node: Node) -> str:
    """The user's module that a node came from, or its name at the top."""
    return module_path(node) or node.name
