"""The plan as a file: what cannot be read or does not fit is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_vits import CPU, Shape, SmallViT

import vitc
from vitc.errors import PassError
from vitc.files import sealed_json
from vitc.passes.pruning.plan import Cost, Cut, PrunePlan

IMAGES = torch.randn(2, 3, 8, 8)


@pytest.fixture(scope="module")
def plan() -> PrunePlan:
    return vitc.prune(SmallViT(Shape(), depth=1).eval(), 0.2, kinds=("mlp",), target=CPU, example_inputs=IMAGES).plan


def test_a_plan_comes_back_from_its_file(plan: PrunePlan, tmp_path: Path) -> None:
    plan.save(tmp_path / "plan.json")
    assert PrunePlan.load(tmp_path / "plan.json") == plan
    untimed = replace(plan, steps=((replace(plan.steps[0][0], ms=None),),), after={"head": Cost(1.0, 4.0, 2.0, None)})
    untimed.save(tmp_path / "plan.json")
    assert PrunePlan.load(tmp_path / "plan.json") == untimed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no pruning plan .* save one with"),
        ("{", "is not a pruning plan: "),
        ("[]", "is not a pruning plan: it holds a JSON list"),
        ("{}", "is not a pruning plan: its format is not"),
        ('{"format": "vitc-prune-plan", "version": 9}', "version 9, this vitc reads 2; prune again to have one"),
        (
            '{"format": "vitc-prune-plan", "version": 2}',
            r"plan.json' is damaged \(it states no SHA-256\); save it again",
        ),
    ],
)
def test_a_plan_that_cannot_be_read(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "plan.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(PassError, match=message):
        PrunePlan.load(path)


@pytest.mark.parametrize("part", ["steps", "before"])
def test_a_plan_with_a_damaged_part(plan: PrunePlan, tmp_path: Path, part: str) -> None:
    path = tmp_path / "plan.json"
    plan.save(path)
    body = json.loads(path.read_text()) | {part: [1]}
    path.write_text(json.dumps(body))
    with pytest.raises(PassError, match=r"plan.json' is damaged \(it states the SHA-256 '.*', its contents have '"):
        PrunePlan.load(path)
    sealed_json.write(path, {key: value for key, value in body.items() if key != "sha256"})
    with pytest.raises(PassError, match=r"plan.json' is damaged \((Type|Attribute)Error"):
        PrunePlan.load(path)


def test_a_plan_that_cannot_be_saved(plan: PrunePlan, tmp_path: Path) -> None:
    with pytest.raises(PassError, match="the pruning plan cannot be saved at '.*nowhere/plan.json'"):
        plan.save(tmp_path / "nowhere" / "plan.json")


def test_a_plan_for_another_model_is_refused(plan: PrunePlan) -> None:
    with pytest.raises(
        PassError, match="made for another model: its graph has the fingerprint .* with the same input size"
    ):
        vitc.replay_pruning(SmallViT(Shape(), depth=2).eval(), plan, example_inputs=IMAGES)


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (
            Cut("blocks.0.mlp.fc2:mlp", "mlp", 24, (0,), (1.0, 1.0)),
            "unknown group in the pruning plan .* mean 'blocks.0.mlp.fc1:mlp'",
        ),
        (
            Cut("blocks.0.mlp.fc1:mlp", "mlp", 24, (3, 24), (1.0, 1.0)),
            r"the units \[24\] from blocks.0.mlp.fc1:mlp, .* 0 to 23",
        ),
    ],
)
def test_an_edited_plan_is_checked(plan: PrunePlan, cut: Cut, message: str) -> None:
    with pytest.raises(PassError, match=message):
        vitc.replay_pruning(SmallViT(Shape(), depth=1).eval(), replace(plan, steps=((cut,),)), example_inputs=IMAGES)
