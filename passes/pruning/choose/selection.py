"""Which units go: from names and indices to the features of a program, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from vitc.errors import PassError
from vitc.passes.pruning.find.groups import Group, Groups

#: Group name → indices of the units that go.
Selection = Mapping[str, Sequence[int]]


def features_of(groups: Groups, selection: Selection) -> tuple[torch.Tensor, torch.Tensor]:
    """(removed [features] bool, content [features] int64) as `shrink` takes them.

    Raises PassError where a head would keep another number of dimensions than its neighbours.
    """
    by_name = {g.name: g for g in groups.groups}
    removed = torch.zeros(groups.flow.count, dtype=torch.bool)
    content = torch.arange(groups.flow.count)
    chosen = {
        by_name[name]: torch.tensor(sorted(units), dtype=torch.long) for name, units in selection.items() if len(units)
    }
    for group, units in chosen.items():
        if group.heads is None:
            removed[group.units[units].flatten()] = True
    for group, units in chosen.items():
        if group.heads is not None:
            _within_heads(group, units, removed, content)
    return removed, content


def _within_heads(group: Group, units: torch.Tensor, removed: torch.Tensor, content: torch.Tensor) -> None:
    """The first places of each head keep, in order, the dimensions that stay; the last places go."""
    goes = torch.zeros(len(group), dtype=torch.bool)
    goes[units] = True
    assert group.heads is not None
    whole_heads_gone = removed.clone()
    counts = {}
    for head in group.heads.unique().tolist():
        places = (group.heads == head).nonzero().flatten()
        if bool(whole_heads_gone[group.units[places]].all()):
            continue
        stay = places[~goes[places]]
        counts[head] = len(stay)
        content[group.units[places[: len(stay)]]] = group.units[stay]
        removed[group.units[places[len(stay) :]].flatten()] = True
    if len(set(counts.values())) > 1:
        raise PassError(
            f"{group.name}: the heads would keep {sorted(set(counts.values()))} dimensions; remove as many from each"
            " head"
        )
