"""Finding groups. Tied features form a class; classes that are made, read and contained alike are the units of one group."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.fx import Node

from vitc.passes.pruning.blocks import block_groups
from vitc.passes.pruning.flow import Flow
from vitc.passes.pruning.groups import Group, Groups, Kind, Refusal, path_of
from vitc.passes.pruning.rules import follow, is_depthwise
from vitc.program import Program

#: What the classes of one group have in common: kind, sources, readers, the attention they are in, number of features.
_Key = tuple[Kind, tuple[int, ...], tuple[Node, ...], int | None, int]


def find_groups(program: Program) -> Groups:
    """Every group of a canonical program, in the order of the graph."""
    flow = follow(program)
    classes = _Classes(flow)
    groups: dict[_Key, list[list[int]]] = {}
    refused: dict[tuple[str, str], int] = {}
    for root, members in classes.members.items():
        unit, reason = members, classes.frozen(members)
        if root in classes.inside:
            unit, conflict = classes.head_unit(root)
            reason = reason or conflict or classes.frozen(unit)
        kind = classes.kind(root)
        if reason is None and kind is None:
            continue  # they go with their head only
        if reason is None and kind in ("mlp", "width") and not any(f in classes.readers for f in members):
            reason = "no layer reads them"
        if reason is not None:
            key = (path_of(flow.sources[classes.source[members[0]]].node), reason)
            refused[key] = refused.get(key, 0) + len(members)
            continue
        made_by = tuple(sorted({classes.source[f] for f in unit}))
        read_by = tuple(dict.fromkeys(r for f in unit for r in classes.readers.get(f, ())))
        outer = classes.source[classes.parent[members[0]]] if kind in ("qk", "v") else None
        groups.setdefault((kind, made_by, read_by, outer, len(unit)), []).append(unit)
    refusals = tuple(Refusal(path, count, reason) for (path, reason), count in refused.items())
    return Groups(flow, (*_named(flow, classes, groups), *block_groups(program, flow)), refusals)


class _Classes:
    """Classes of tied features. Plain lists: they are read once for every feature, of which a ViT-H has 400,000."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self.labels = _components(flow)
        self.label: list[int] = self.labels.tolist()
        self.parent: list[int] = flow.parent.tolist()
        self.source = [i for i, s in enumerate(flow.sources) for _ in range(s.width)]
        self._frozen: list[int] = flow.frozen.tolist()
        self._role: list[int] = flow.role.tolist()
        self._summed: list[bool] = flow.summed.tolist()
        self.members: dict[int, list[int]] = {}
        self.inside: dict[int, list[int]] = {}  # class of a head → the features inside of it
        for feature, root in enumerate(self.label):
            self.members.setdefault(root, []).append(feature)
            if self.parent[feature] >= 0:
                self.inside.setdefault(self.label[self.parent[feature]], []).append(feature)
        self.readers: dict[int, list[Node]] = {}
        for reader, row in flow.columns.items():
            for feature in () if is_depthwise(reader) else row.unique().tolist():
                self.readers.setdefault(feature, []).append(reader)

    def frozen(self, features: Sequence[int]) -> str | None:
        """Why none of the features may go."""
        first = max(self._frozen[f] for f in features)
        return None if first < 0 else self._flow.reasons[first]

    def kind(self, root: int) -> Kind | None:
        """What a class is; None if it only goes with its head."""
        if root in self.inside:
            return "heads"
        members = self.members[root]
        roles = {self._role[f] for f in members}
        if roles == {-1}:
            return "width" if any(self._summed[f] for f in members) else "mlp"
        role = self._flow.role_of(members[0]) if len(roles) == 1 else None
        return role if role in ("qk", "v") else None

    def head_unit(self, root: int) -> tuple[list[int], str | None]:
        """All features that go with a head, and what forbids it."""
        unit, pending, seen = dict.fromkeys(self.members[root]), [root], {root}
        while pending:
            for feature in self.inside.get(pending.pop(), ()):
                inner = self.label[feature]
                if inner not in seen:
                    seen.add(inner)
                    pending.append(inner)
                    unit |= dict.fromkeys(self.members[inner])
        shared = any(self.parent[f] >= 0 and self.label[self.parent[f]] not in seen for f in unit)
        return sorted(unit), "they are shared by several heads" if shared else None


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
        label = new.scatter_reduce(0, label, new, "amin")  # what is tied to a member is tied to the class


def _named(flow: Flow, classes: _Classes, groups: dict[_Key, list[list[int]]]) -> tuple[Group, ...]:
    found: list[Group] = []
    taken: dict[str, int] = {}
    for (kind, made_by, read_by, outer, _), units in groups.items():
        nodes = tuple(flow.sources[i].node for i in made_by)
        home = path_of(flow.sources[outer].node if outer is not None else nodes[-1 if kind == "heads" else 0])
        tensor = torch.tensor(units)
        heads = None
        if kind in ("qk", "v"):
            tensor, heads = _by_head(flow, classes.labels, tensor)
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
    """Units inside of heads, and the head of each. Where they meet a weight of their own index (rotary tables, q/k norms), that
    index is the same in every head, and one unit is that index of all heads."""
    heads = label[flow.parent[units[:, 0]].long()]
    if not bool(flow.indexed[units.flatten()].any()):
        return units, heads
    each = [units[heads == h] for h in heads.unique()]
    return (torch.cat(each, 1) if len({len(e) for e in each}) == 1 else units[:0]), None
