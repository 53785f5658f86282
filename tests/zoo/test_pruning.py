"""Pruning over the zoo: the pruned model computes what the original does with the same channels masked out."""

from __future__ import annotations

import pytest
import torch
from masked import masked
from zoo_models import ZOO, perturbed

import vitc.targets
from vitc.frontend.capture import capture
from vitc.graph.program import Program
from vitc.passes.pruning.choose.selection import features_of
from vitc.passes.pruning.cut.apply import prepare
from vitc.passes.pruning.cut.shrink import shrink
from vitc.passes.pruning.find.grouping import find_groups
from vitc.passes.pruning.find.groups import Groups
from vitc.pipeline.default import canonical

pytestmark = pytest.mark.slow

#: Together in one model: channels and heads; dimensions of heads; the residual stream.
KINDS = (("mlp", "heads"), ("qk", "v"), ("width",))


def _half(groups: Groups, kinds: tuple[str, ...]) -> dict[str, list[int]]:
    """Every other unit; of dimensions of heads the even ones in even heads, the odd ones in odd heads."""
    chosen = {}
    for group in groups.groups:
        if group.kind not in kinds:
            continue
        if group.heads is None:
            chosen[group.name] = list(range(0, len(group) - len(group) % 2, 2))
        else:
            size = len(group) // len(group.heads.unique())
            chosen[group.name] = [
                i for i in range(len(group)) if i % size % 2 == i // size % 2 and i % size < size - size % 2
            ]
    return chosen


@pytest.mark.parametrize("name", ZOO)
def test_pruned_equals_masked(name: str) -> None:
    program = canonical(capture(perturbed(ZOO[name][0]), vitc.targets.load("cpu")))
    pruned = 0
    for kinds in KINDS:
        prepared = prepare(program.fork(), kinds)
        groups = find_groups(prepared)
        chosen = _half(groups, kinds)
        if chosen:
            _compare(prepared, groups, chosen)
            pruned += 1
    assert pruned >= 2  # the stream of a model that returns its features stays


def _compare(program: Program, groups: Groups, chosen: dict[str, list[int]]) -> None:
    wanted = masked(program, groups, chosen)
    before = program.parameter_count()
    removed, content = features_of(groups, chosen)
    shrink(program, groups.flow, removed, content)
    assert program.parameter_count() < before
    for batch in (slice(None), slice(0, 1)):
        inputs = [t[batch] for t in program.example_inputs]
        for one, want in zip(program.run(*inputs), wanted, strict=True):
            assert one.shape == want[batch].shape
            torch.testing.assert_close(one, want[batch], rtol=1e-4, atol=1e-4 * float(want.abs().max()))
