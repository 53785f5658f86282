"""A short run of tests/fuzz/operators.py; the long one is started by hand."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

_SPEC = importlib.util.spec_from_file_location("fuzz_operators", Path(__file__).with_name("operators.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
operators = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = operators
_SPEC.loader.exec_module(operators)


@pytest.mark.parametrize("first", range(0, 20, 5))
def test_random_graphs_are_equal_or_refused(first: int) -> None:
    outcomes = [outcome for seed in range(first, first + 5) for outcome in operators.judge(seed)]
    assert [o for o in outcomes if o.verdict == "wrong"] == []
    assert any(o.verdict == "equal" for o in outcomes)


def test_a_seed_draws_the_same_graph_again() -> None:
    (one, shape), (two, again) = operators.chain(7), operators.chain(7)
    x = operators.inputs(shape, 2, 1)
    assert shape == again
    assert len(one.steps) == len(two.steps)
    assert bool((one(x) == two(x)).all())
