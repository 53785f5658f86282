"""Dependency groups: which features can be removed, and which must go together.

Tied features form a class. Classes that are made, read and contained alike form a group; each is one unit of it, and any of
its units can be removed without the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch.fx import Node

from vitc.graph.nodes import module_path
from vitc.passes.pruning.flow import Flow
from vitc.passes.pruning.rules import follow
from vitc.program import Program

Kind = Literal["mlp", "heads", "qk", "v", "width"]
#: What the classes of one group have in common: kind, sources, readers, the attention they are in, number of features.
_Key = tuple[Kind, tuple[int, ...], tuple[Node, ...], int | None, int]


@dataclass(frozen=True)
class Group:
    """Units of which each can be removed without the others.

    `units`: [units, features of each]. `sources`: the layers (and attentions) that make the features; `readers`: the layers
    that read them. `heads`: the head that each unit is in, where as many must go from each ('qk', 'v'), else None. `width`: by
    how many channels what reads them becomes narrower with one unit (inside of heads, the head). `exact`: removing features
    that are zero changes nothing; not so where a norm takes its statistics over them.
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
        weights = [tuple(n.args[1].meta["val"].shape) for n in (*self.sources, *self.readers) if _has_weight(n)]
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

    def text(self) -> str:
        """One line a group, then one a refusal."""
        lines = []
        for group in self.groups:
            through = "" if group.exact else ", read through a norm"
            readers = ", ".join(dict.fromkeys(_path(n) for n in group.readers)) or "attention"
            lines.append(f"{group.kind:<6} {group.name:<36} {len(group)} units of {group.units.shape[1]} → {readers}{through}")
        return "\n".join([*lines, *(f"kept   {r.path:<36} {r.count} features: {r.reason}" for r in self.refused)])


def find_groups(program: Program) -> Groups:
    """Every group of a canonical program, in the order of the graph."""
    flow = follow(program)
    label = _components(flow)
    classes = _members(label)
    readers = _readers(flow)
    groups: dict[_Key, list[list[int]]] = {}
    refused: dict[tuple[str, str], int] = {}
    inside = _members_by_head(flow, label)
    for root, members in classes.items():
        unit, reason = members, _frozen(flow, members)
        if root in inside:
            unit, conflict = _head_unit(flow, label, classes, inside, root)
            reason = reason or conflict or _frozen(flow, unit)
        kind = _kind(flow, members, root in inside)
        made_by = tuple(sorted({flow.source_index(f) for f in unit}))
        if reason is None and kind is None:
            continue  # they go with their head only
        if reason is None and kind in ("mlp", "width") and not any(f in readers for f in members):
            reason = "no layer reads them"
        if reason is not None:
            key = (_path(flow.sources[made_by[0]].node), reason)
            refused[key] = refused.get(key, 0) + len(members)
            continue
        read_by = tuple(dict.fromkeys(r for f in unit for r in readers.get(f, ())))
        outer = flow.source_index(int(flow.parent[members[0]])) if kind in ("qk", "v") else None
        groups.setdefault((kind, made_by, read_by, outer, len(unit)), []).append(unit)
    found = _named(flow, label, groups)
    return Groups(flow, found, tuple(Refusal(path, count, reason) for (path, reason), count in refused.items()))


def _components(flow: Flow) -> torch.Tensor:
    """The smallest feature of each feature's class: labels are pushed along the ties until they rest."""
    label = torch.arange(flow.count)
    if not flow.ties:
        return label
    a, b = (torch.cat([pair[i] for pair in flow.ties]) for i in range(2))
    while True:
        low = torch.minimum(label[a], label[b])
        new = label.scatter_reduce(0, a, low, "amin").scatter_reduce(0, b, low, "amin")
        new = torch.minimum(new, new[new])
        if torch.equal(new, label):
            return label
        # What is tied to the root of a class is tied to the class.
        label = new.scatter_reduce(0, label, new, "amin")


def _members(label: torch.Tensor) -> dict[int, list[int]]:
    classes: dict[int, list[int]] = {}
    for feature, root in enumerate(label.tolist()):
        classes.setdefault(root, []).append(feature)
    return classes


def _members_by_head(flow: Flow, label: torch.Tensor) -> dict[int, list[int]]:
    """Class of a head → the features inside of it."""
    inside: dict[int, list[int]] = {}
    contained = (flow.parent >= 0).nonzero().flatten()
    for feature, root in zip(contained.tolist(), label[flow.parent[contained].long()].tolist(), strict=True):
        inside.setdefault(root, []).append(feature)
    return inside


def _head_unit(
    flow: Flow, label: torch.Tensor, classes: dict[int, list[int]], inside: dict[int, list[int]], root: int
) -> tuple[list[int], str | None]:
    """All features that go with a head, and what forbids it."""
    unit: dict[int, None] = {}
    pending = [root]
    seen = {root}
    while pending:
        current = pending.pop()
        unit |= dict.fromkeys(classes[current])
        for feature in inside.get(current, ()):
            inner = int(label[feature])
            if inner not in seen:
                seen.add(inner)
                pending.append(inner)
    for feature in unit:
        outer = int(flow.parent[feature])
        if outer >= 0 and int(label[outer]) not in seen:
            return list(unit), "they are shared by several heads"
    return sorted(unit), None


def _frozen(flow: Flow, features: Sequence[int]) -> str | None:
    numbers = flow.frozen[torch.tensor(features)]
    first = int(numbers.max())
    return None if first < 0 else flow.reasons[first]


def _kind(flow: Flow, members: list[int], is_head: bool) -> Kind | None:
    if is_head:
        return "heads"
    roles = {flow.role_of(f) for f in members}
    if roles == {None}:
        return "width" if bool(flow.summed[torch.tensor(members)].any()) else "mlp"
    if roles == {"qk"}:
        return "qk"
    return "v" if roles == {"v"} else None


def _readers(flow: Flow) -> dict[int, list[Node]]:
    from vitc.passes.pruning.rules import is_depthwise

    readers: dict[int, list[Node]] = {}
    for reader, row in flow.columns.items():
        if not is_depthwise(reader):
            for feature in row.unique().tolist():
                readers.setdefault(feature, []).append(reader)
    return readers


def _named(flow: Flow, label: torch.Tensor, groups: dict[_Key, list[list[int]]]) -> tuple[Group, ...]:
    found: list[Group] = []
    taken: dict[str, int] = {}
    for (kind, made_by, read_by, outer, _), units in groups.items():
        nodes = tuple(flow.sources[i].node for i in made_by)
        home = _path(flow.sources[outer].node if outer is not None else nodes[-1 if kind == "heads" else 0])
        tensor = torch.tensor(units)
        heads = None
        if kind in ("qk", "v"):
            tensor, heads = _by_head(flow, label, tensor)
        if len(tensor) < 2:
            continue
        base = f"{home}:{kind}"
        taken[base] = taken.get(base, 0) + 1
        name = base if taken[base] == 1 else f"{base}{taken[base]}"
        exact = not bool(flow.normed[tensor.flatten()].any())
        width = 1 if heads is not None or not read_by else int(torch.isin(flow.columns[read_by[0]], tensor[0]).sum())
        found.append(Group(name, kind, tensor, nodes, read_by, heads, width, exact))
    return tuple(found)


def _by_head(flow: Flow, label: torch.Tensor, units: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Units inside of heads. Where they meet a weight of their own index (rotary tables, q/k norms), that index is the same in
    every head, and one unit is that index of all heads."""
    heads = label[flow.parent[units[:, 0]].long()]
    if not bool(flow.indexed[units.flatten()].any()):
        return units, heads
    each = [units[heads == h] for h in heads.unique()]
    if len({len(e) for e in each}) > 1:
        return units[:0], None
    return torch.cat(each, 1), None


def _path(node: Node) -> str:
    return module_path(node) or node.name


def _has_weight(node: Node) -> bool:
    from vitc.passes.pruning.rules import LAYERS

    return node.target in LAYERS
