"""Finding groups. Tied features form a class; classes that are made, read and contained alike are the units of one
group.

A ViT-H has 400,000 features, so nothing here is done feature by feature: what is alike is decided once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.fx import Node

from vitc.graph.program import Program
from vitc.passes.pruning.find.blocks import block_groups
from vitc.passes.pruning.find.flow import ROLES, Flow, Role
from vitc.passes.pruning.find.follow import follow
from vitc.passes.pruning.find.groups import Group, Groups, Kind, Refusal, path_of
from vitc.passes.pruning.find.layers import is_depthwise

#: What the classes of one group have in common: kind, sources, readers, the attention they are in, number of features.
_Key = tuple[Kind, tuple[int, ...], tuple[Node, ...], int | None, int]


@dataclass(frozen=True)
class _Alike:
    """Classes of which the same is true. `members` [classes, features of each]; `units`: what goes with each class: its
    members, and with a head all that is inside of it. `conflict`: why they cannot go."""

    members: np.ndarray
    units: np.ndarray
    is_head: bool = False
    conflict: str | None = None


def find_groups(program: Program) -> Groups:
    """Every group of a canonical program, in the order of the graph."""
    flow = follow(program)
    if not flow.count:
        return Groups(flow, (), ())
    classes = _Classes(flow)
    groups: dict[_Key, list[_Alike]] = {}
    refused: dict[tuple[str, str], int] = {}
    for alike in sorted(classes.alike(), key=lambda a: int(a.members[0, 0])):
        members, unit = alike.members[0], alike.units[0]
        kind = "heads" if alike.is_head else classes.kind(members)
        reason = classes.frozen(members) or alike.conflict or classes.frozen(unit)
        if reason is None and kind in ("mlp", "width") and not classes.readers(members):
            reason = "no layer reads them"
        if reason is not None:
            key = (path_of(flow.sources[classes.made_by[members[0]]].node), reason)
            refused[key] = refused.get(key, 0) + alike.members.size
        elif kind is not None:  # else they go with their head only
            made_by = tuple(np.unique(classes.made_by[unit]).tolist())
            outer = int(classes.made_by[classes.parent[members[0]]]) if kind in ("qk", "v") else None
            groups.setdefault((kind, made_by, classes.readers(unit), outer, len(unit)), []).append(alike)
    refusals = tuple(Refusal(path, count, reason) for (path, reason), count in refused.items())
    return Groups(flow, (*_named(flow, classes, groups), *block_groups(program, flow)), refusals)


class _Classes:
    """Classes of tied features, each called by its smallest feature.

    `label`: the class of each feature; `made_by`, `parent` as in the flow.
    """

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self.label = _components(flow)
        self.made_by, self.parent = flow.made_by.numpy(), flow.parent.numpy()
        self._frozen, self._role, self._summed = flow.frozen.numpy(), flow.role.numpy(), flow.summed.numpy()
        self._readers, self._read_by = _readers(flow)
        # Side by side: the members of a class, and what is inside of the head that a class is.
        self._by_class = self.label.argsort(kind="stable")
        self._roots, self._first, self._size = np.unique(
            self.label[self._by_class], return_index=True, return_counts=True
        )
        inner = (self.parent >= 0).nonzero()[0]
        heads = self.label[self.parent[inner]]
        order = heads.argsort(kind="stable")
        self._inner, self._inner_heads = inner[order], heads[order]
        self._heads = np.unique(heads)

    def alike(self) -> Iterator[_Alike]:
        """All classes: every head by itself, the others with those whose members are made, read and contained alike."""
        for root in self._heads:
            unit, conflict = self._head_unit(int(root))
            yield _Alike(self._members(np.array([root]))[None], unit[None], True, conflict)
        is_head = np.isin(self._roots, self._heads)
        outer = np.where(self.parent >= 0, self.made_by[self.parent], -1)
        profile = _numbered(self.made_by, self._read_by, self._frozen, self._role, self._summed, outer)
        for size in np.unique(self._size[~is_head]).tolist():
            first = self._first[~is_head & (self._size == size)]
            members = self._by_class[first[:, None] + np.arange(size)]
            same = _numbered(*profile[members].T)
            order = same.argsort(kind="stable")
            for rows in np.split(order, np.flatnonzero(np.diff(same[order])) + 1):
                yield _Alike(members[rows], members[rows])

    def frozen(self, features: np.ndarray) -> str | None:
        """Why none of the features may go."""
        last = int(self._frozen[features].max())
        return None if last < 0 else self._flow.reasons[last]

    def kind(self, members: np.ndarray) -> Kind | None:
        """What a class that is no head is; None if it only goes with its head."""
        roles = set(self._role[members].tolist())
        if roles == {-1}:
            return "width" if self._summed[members].any() else "mlp"
        role: Role = ROLES[roles.pop()] if len(roles) == 1 else "whole"
        return None if role == "whole" else role

    def readers(self, features: np.ndarray) -> tuple[Node, ...]:
        """The layers that read any of the features, in the order of the features."""
        return tuple(
            dict.fromkeys(r for i in dict.fromkeys(self._read_by[features].tolist()) for r in self._readers[i])
        )

    def _members(self, roots: np.ndarray) -> np.ndarray:
        """The members of the classes, one class after the other."""
        at = self._roots.searchsorted(roots)
        size = self._size[at]
        before = size.cumsum() - size
        found: np.ndarray = self._by_class[np.repeat(self._first[at] - before, size) + np.arange(size.sum())]
        return found

    def _head_unit(self, root: int) -> tuple[np.ndarray, str | None]:
        """All features that go with a head, and what forbids it."""
        classes, pending = np.array([root]), {root}
        while pending:
            low, high = self._inner_heads.searchsorted([head := pending.pop(), head + 1])
            new = np.setdiff1d(self.label[self._inner[low:high]], classes)
            classes = np.concatenate([classes, new])
            pending.update(new[np.isin(new, self._heads)].tolist())
        unit = np.sort(self._members(classes))
        parents = self.parent[unit]
        shared = not np.isin(self.label[parents[parents >= 0]], classes).all()
        return unit, "they are shared by several heads" if shared else None


def _components(flow: Flow) -> np.ndarray:
    """The smallest feature of each feature's class: of two tied classes the larger is hung under the smaller, until
    none is left."""
    label = np.arange(flow.count)
    if not flow.ties:
        return label
    a, b = (torch.cat([pair[i] for pair in flow.ties]).numpy() for i in range(2))
    while True:
        low, high = np.minimum(label[a], label[b]), np.maximum(label[a], label[b])
        if np.array_equal(low, high):
            return label
        np.minimum.at(label, high, low)
        while not np.array_equal(label, root := label[label]):
            label = root


def _readers(flow: Flow) -> tuple[list[tuple[Node, ...]], np.ndarray]:
    """(sets of readers, [features]: which of them reads a feature)."""
    sets: dict[tuple[Node, ...], int] = {(): 0}
    read_by = np.zeros(flow.count, dtype=np.int64)
    for reader, row in flow.columns.items():
        if is_depthwise(reader):
            continue
        features = row.numpy()
        features = features[features >= 0]
        before = read_by[features]
        for i in np.unique(before).tolist():
            together = (*list(sets)[i], reader)
            read_by[features[before == i]] = sets.setdefault(together, len(sets))
    return list(sets), read_by


def _numbered(*columns: np.ndarray) -> np.ndarray:
    """A number for each place, the same where all columns are equal; columns hold integers from −1 on."""
    number = np.zeros(len(columns[0]), dtype=np.int64)
    for column in columns:
        both = number * (int(column.max()) + 2) + column + 1
        number = np.unique(both, return_inverse=True)[1]
    return number


def _named(flow: Flow, classes: _Classes, groups: dict[_Key, list[_Alike]]) -> tuple[Group, ...]:
    found: list[Group] = []
    taken: dict[str, int] = {}
    for (kind, made_by, read_by, outer, _), parts in groups.items():
        nodes = tuple(flow.sources[i].node for i in made_by)
        home = path_of(flow.sources[outer].node if outer is not None else nodes[-1 if kind == "heads" else 0])
        order = np.concatenate([part.members[:, 0] for part in parts]).argsort()
        units = torch.from_numpy(np.concatenate([part.units for part in parts])[order])
        heads = None
        if kind in ("qk", "v"):
            units, heads = _by_head(flow, classes.label, units)
        if len(units) < 2:
            continue
        base = f"{home}:{kind}"
        taken[base] = taken.get(base, 0) + 1
        name = base if taken[base] == 1 else f"{base}{taken[base]}"
        exact = not bool(flow.normed[units.flatten()].any())
        width = 1 if heads is not None or not read_by else int(torch.isin(flow.columns[read_by[0]], units[0]).sum())
        found.append(Group(name, kind, units, nodes, read_by, heads, width, exact))
    return tuple(found)


def _by_head(flow: Flow, label: np.ndarray, units: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Units inside of heads, and the head of each. Where they meet a weight of their own index (rotary tables, q/k
    norms), that index is the same in every head, and one unit is that index of all heads."""
    heads = torch.from_numpy(label)[flow.parent[units[:, 0]].long()]
    if not bool(flow.indexed[units.flatten()].any()):
        return units, heads
    each = [units[heads == h] for h in heads.unique()]
    return (torch.cat(each, 1) if len({len(e) for e in each}) == 1 else units[:0]), None
