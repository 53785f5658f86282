"""The rules are data: each is complete, reachable, and says where it comes from."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vitc import targets
from vitc.errors import VitcError
from vitc.lowering.lint import engine_named, engines, rules
from vitc.lowering.lint.rules import engine_for

SOURCE = Path(__file__).parents[3] / "lowering" / "lint"


@pytest.mark.parametrize("rule", rules().values(), ids=rules())
def test_a_rule_is_complete(rule) -> None:  # type: ignore[no-untyped-def]
    assert rule.about
    names = {name for e in engines() for name in (e.name, str(e))}
    for outcome in rule.outcomes:
        assert set(outcome.engines) <= names
        assert outcome.why
        assert outcome.evidence
        assert rule.remedy or outcome.severity in ("good", "note")


def test_every_rule_is_used_and_every_used_rule_exists() -> None:
    used = set()
    for name in ("gemm.py", "attention.py", "elementwise.py", "api.py"):
        used |= set(re.findall(r'"([a-z0-9]+(?:-[a-z0-9]+)+)"', (SOURCE / name).read_text())) - {"tensorrt-rtx"}
    used |= {word for word in re.findall(r'"([a-z]+)"', (SOURCE / "elementwise.py").read_text()) if word in rules()}
    assert used == set(rules())


def test_a_version_comes_before_its_engine() -> None:
    """TensorRT 10.3's own word on INT8 attention, not that of TensorRT in general."""
    rule = rules()["attention-int8"]
    assert rule.outcome(engine_named("tensorrt 10.3")).severity == "error"  # type: ignore[union-attr]
    assert rule.outcome(engine_named("tensorrt 10.16")).severity == "warning"  # type: ignore[union-attr]
    assert rule.outcome(engine_named("tensorrt-rtx 1.7")).severity == "good"  # type: ignore[union-attr]


@pytest.mark.parametrize(("target", "engine"), [("orin", "tensorrt 10.3"), ("rtx-5090", "tensorrt 10.16")])
def test_the_engine_of_a_target(target: str, engine: str) -> None:
    assert str(engine_for(targets.load(target))) == engine


def test_the_engine_of_a_cpu() -> None:
    assert engine_for(targets.load("cpu")).name in ("openvino", "onnxruntime")


def test_an_unknown_engine() -> None:
    with pytest.raises(VitcError, match=r"unknown engine 'tensorrt 9'; known: .*tensorrt 10\.3"):
        engine_named("tensorrt 9")
