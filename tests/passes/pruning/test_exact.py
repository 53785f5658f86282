"""Removing features whose weights are zero changes nothing, for random small ViTs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_vits import Shape, SmallViT, program_of

from vitc.graph import constant
from vitc.graph.program import Program
from vitc.passes.pruning.choose.selection import features_of
from vitc.passes.pruning.cut.apply import prepare
from vitc.passes.pruning.cut.shrink import shrink
from vitc.passes.pruning.find.grouping import find_groups
from vitc.passes.pruning.find.groups import Group, Groups
from vitc.passes.pruning.find.layers import LAYERS

SHAPES = st.builds(
    Shape,
    heads=st.integers(2, 4),
    head_dim=st.sampled_from([2, 4, 6]),
    merged_qkv=st.booleans(),
    layer_scale=st.booleans(),
    registers=st.integers(0, 2),
    tied=st.booleans(),
    gated=st.booleans(),
    table=st.booleans(),
)


@pytest.mark.slow
@settings(max_examples=16, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(shape=SHAPES, inside_heads=st.booleans(), data=st.data())
def test_removing_what_is_zero_is_exact(shape: Shape, inside_heads: bool, data: st.DataObject) -> None:
    torch.manual_seed(0)
    kinds = ("mlp", "qk", "v") if inside_heads else ("mlp", "heads")
    program = prepare(program_of(SmallViT(shape)).fork(), kinds)
    groups = find_groups(program)
    offered = [g for g in groups.groups if g.kind in kinds]
    assert {g.kind for g in offered} == set(kinds)
    chosen = {g.name: _some(g, data) for g in offered}
    _make_zero(program, groups, chosen)
    want = program.run(*program.example_inputs)
    removed, content = features_of(groups, chosen)
    shrink(program, groups.flow, removed, content)
    (got,) = program.run(*program.example_inputs)
    torch.testing.assert_close(got, want[0], rtol=1e-5, atol=1e-5)
    assert program.run(*(t[:1] for t in program.example_inputs))[0].shape == (1, 5)


def _some(group: Group, data: st.DataObject) -> list[int]:
    """Any units but not all; as many of each head."""
    if group.heads is None:
        return sorted(data.draw(st.sets(st.integers(0, len(group) - 1), max_size=len(group) - 1), group.name))
    each = [(group.heads == h).nonzero().flatten().tolist() for h in group.heads.unique()]
    count = data.draw(st.integers(0, len(each[0]) - 1), f"{group.name} per head")
    return sorted(i for units in each for i in data.draw(st.permutations(units))[:count])


def _make_zero(program: Program, groups: Groups, chosen: dict[str, list[int]]) -> None:
    """Zero weights and biases for all features of the units."""
    features = {int(f) for g in groups.groups for f in g.units[chosen.get(g.name, [])].flatten()}
    for source in groups.flow.sources:
        rows = [f - source.first for f in features if source.first <= f < source.first + source.width]
        for operand in source.node.args[1:3] if source.node.target in LAYERS else ():
            constant(program.module, operand)[rows] = 0
