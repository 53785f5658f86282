"""From scores and a budget to the units that go."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, gcd
from typing import Literal

import torch

from vitc.passes.pruning.find.groups import Group

Ranking = Literal["isomorphic", "global"]


@dataclass(frozen=True)
class Queue:
    """The units of one group in the order in which they go, and when.

    group:   the group.
    units:   [steps, units in one step]: one unit a step, or one of each head.
    time:    [steps], ascending, in (0, 1]: the share of the way to removing everything at which the step is due.
    quantum: how many steps are taken at a time.
    least:   how many steps' units stay in any case.
    """

    group: Group
    units: torch.Tensor
    time: torch.Tensor
    quantum: int
    least: int

    def removed_at(self, time: float) -> list[int]:
        """The units that are gone at a time; the number that stay is rounded to the quantum, to the nearest."""
        due = int((self.time <= time).sum())
        stay = round((len(self.units) - due) / self.quantum) * self.quantum
        stay = min(max(stay, self.least), len(self.units)) if due else len(self.units)
        return sorted(self.units[: len(self.units) - stay].flatten().tolist())


def queues(
    groups: Sequence[Group],
    scores: Mapping[str, torch.Tensor],
    cost_of_unit: Callable[[Group], float],
    ranking: Ranking,
    quantum: int,
    floor: float,
) -> list[Queue]:
    """One queue a group. 'global' ranks all units by score per cost; 'isomorphic' ranks among groups of one structure,
    and takes the same share of each structure (Fang et al., arXiv 2407.04616).

    `quantum` in channels; `floor`: the share of every group that stays.
    """
    steps = {g.name: _steps(g, scores[g.name]) for g in groups}
    pools: dict[object, list[Group]] = {}
    for group in groups:
        pools.setdefault(group.signature if ranking == "isomorphic" else None, []).append(group)
    found = []
    for pool in pools.values():
        value = torch.cat([steps[g.name][1] / (cost_of_unit(g) if ranking == "global" else 1.0) for g in pool])
        rank = torch.empty(len(value))
        rank[value.argsort(stable=True)] = torch.arange(1, len(value) + 1) / len(value)
        for group, own in zip(pool, rank.split([len(steps[g.name][1]) for g in pool]), strict=True):
            units = steps[group.name][0]
            size = _steps_a_time(group, len(units), quantum)
            least = max(1, ceil(len(units) * floor / size)) * size
            found.append(Queue(group, units, own.cummax(0).values, size, min(least, len(units))))
    return found


def _steps(group: Group, score: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(units of each step, score of each step), least first; inside of heads a step takes one unit from each."""
    if group.heads is None:
        order = score.argsort(stable=True)
        return order[:, None], score[order]
    each = []
    for head in group.heads.unique():
        places = (group.heads == head).nonzero().flatten()
        each.append(places[score[places].argsort(stable=True)])
    units = torch.stack(each, 1)
    return units, score[units].sum(1)


def _steps_a_time(group: Group, steps: int, quantum: int) -> int:
    """How many steps change the width by a multiple of the quantum: a head counts its size, a block nothing. Groups of
    less than four quanta are cut in finer steps."""
    size = quantum // gcd(quantum, group.width)
    while size > 1 and steps < 4 * size:
        size //= 2
    return size


def least_time(queues: Sequence[Queue], enough: Callable[[dict[str, list[int]]], bool]) -> dict[str, list[int]] | None:
    """The selection at the earliest time at which it is enough; None if even the last is not."""
    times = torch.cat([q.time for q in queues]).unique().tolist()

    def selection(index: int) -> dict[str, list[int]]:
        chosen = {q.group.name: q.removed_at(times[index]) for q in queues}
        return {name: units for name, units in chosen.items() if units}

    low, high = 0, len(times) - 1
    if not enough(selection(high)):
        return None
    while low < high:
        middle = (low + high) // 2
        if enough(selection(middle)):
            high = middle
        else:
            low = middle + 1
    return selection(low)
