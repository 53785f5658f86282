"""Pruning over the zoo: the pruned model computes what the original does with the same channels masked out."""

from __future__ import annotations

import pytest
import torch
from masked import masked
from torch.utils._pytree import tree_leaves
from zoo_models import ZOO, perturbed

import vitc.targets
from vitc.capture import capture
from vitc.compiler import CANONICAL
from vitc.passes.pruning.grouping import find_groups
from vitc.passes.pruning.groups import Groups
from vitc.passes.pruning.selection import features_of
from vitc.passes.pruning.shrink import shrink
from vitc.passes.pruning.unpack import unpack_heads
from vitc.pipeline import parse_pipeline, run_pipeline

pytestmark = pytest.mark.slow


def _half(groups: Groups, kinds: tuple[str, ...]) -> dict[str, list[int]]:
    """Every other unit; the same ones of each head."""
    chosen = {}
    for group in groups.groups:
        if group.kind not in kinds or len(group) < 2:
            continue
        if group.heads is None:
            chosen[group.name] = list(range(0, len(group) - len(group) % 2, 2))
        else:
            size = len(group) // len(group.heads.unique())
            chosen[group.name] = [i for i in range(len(group)) if i % size % 2 == (i // size) % 2 and i % size < size - size % 2]
    return chosen


@pytest.mark.parametrize("kinds", [("mlp", "heads"), ("qk", "v"), ("width",)], ids="+".join)
@pytest.mark.parametrize("name", ZOO)
def test_pruned_equals_masked(name: str, kinds: tuple[str, ...]) -> None:
    program = run_pipeline(capture(perturbed(ZOO[name][0]), vitc.targets.load("cpu")), parse_pipeline(",".join(CANONICAL)))
    program = unpack_heads(program.fork()) if "qk" in kinds else program
    groups = find_groups(program)
    chosen = _half(groups, kinds)
    if not chosen:
        pytest.skip(f"no group of {kinds}")
    removed, content = features_of(groups, chosen)
    fork = program.fork()
    shrink(fork, find_groups(fork).flow, removed, content)
    wanted = masked(program, groups, chosen)
    got = [t for t in tree_leaves(fork(*program.example_inputs)) if isinstance(t, torch.Tensor)]
    assert fork.parameter_count() < program.parameter_count()
    for one, want in zip(got, wanted, strict=True):
        assert one.shape == want.shape
        torch.testing.assert_close(one, want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))
