"""What a user asks is checked at the door: every contradiction is refused, with what to do; nothing is ignored."""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

import vitc
from vitc.compiler.request import Request
from vitc.demo.digits import DigitsViT
from vitc.errors import CalibrationError, InputError, PipelineError, TargetError

IMAGES = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def _unseen(*_: Any) -> float:
    raise AssertionError("nothing may be evaluated")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"pipeline": "canonical", "prune": 0.3},
            InputError,
            r"prune= and pipeline= exclude .*write prune\{ratio=0.35",
        ),
        ({"pipeline": "canonical", "distill": IMAGES}, InputError, r"distill= and pipeline= exclude .*prune and train"),
        (
            {"pipeline": "canonical", "attention": "window"},
            InputError,
            r"attention= and pipeline= exclude .*window-att",
        ),
        ({"pipeline": "canonical", "quantize": None}, InputError, r"quantize= and pipeline= exclude .*quantize-int8\{"),
        (
            {"pipeline": "canonical", "calibration": IMAGES, "max_drop": 0.1, "evaluate": _unseen},
            InputError,
            "evaluate= and pipeline= exclude .*leave pipeline= away",
        ),
        (
            {"pipeline": "canonical", "calibration": IMAGES, "max_drop": 0.1},
            InputError,
            "max_drop= and pipeline= exclude .*leave pipeline= away",
        ),
        ({"max_drop": 0.1}, InputError, "without calibration=images there is no INT8; pass calibration="),
        ({"evaluate": _unseen, "calibration": IMAGES}, InputError, "evaluate needs max_drop"),
        ({"resume": "folder"}, InputError, "resume= keeps what calibration .* there is no calibration=images"),
        ({"quantize": "int8"}, CalibrationError, "quantize='int8' needs calibration=images"),
        ({"quantize": None, "calibration": IMAGES, "max_drop": 0.1}, InputError, "quantize=None turns INT8 off"),
        (
            {"quantize": None, "calibration": IMAGES, "prune": 0.3, "resume": "folder"},
            InputError,
            "resume= keeps what INT8 finds, and quantize=None turns INT8 off",
        ),
        ({"quantize": None, "calibration": IMAGES}, InputError, "without prune= nothing would read it"),
        ({"distill": IMAGES}, InputError, "distill= learns back what prune= takes away; pass prune= too"),
        ({"max_drop": -1.0, "calibration": IMAGES}, InputError, "max_drop must be a number that is not negative"),
        ({"quantize": "int4"}, InputError, "quantize must be 'auto', 'int8', None or"),
        ({"attention": "local"}, InputError, "attention must be 'exact', 'window' or the text of a pass"),
        ({"attention": "window-attention{width=3}"}, PipelineError, "unknown option of pass 'window-attention'"),
        ({"pipeline": "tile-atention"}, PipelineError, "did you mean 'tile-attention'"),
        ({"calibration": "nowhere"}, CalibrationError, "there is no folder of images and no .npy file 'nowhere'"),
        ({"prune": {"plan": "p.json", "criterion": "l1"}}, InputError, "leave criterion away, or leave the plan away"),
        ({"prune": "much"}, InputError, "a pruning budget is a number"),
    ],
)
def test_contradictions_are_refused_before_anything_begins(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Request.of("cpu", **arguments)


def test_an_unknown_target_is_said_before_anything_begins() -> None:
    with pytest.raises(TargetError, match="did you mean 'orin'"):
        Request.of("orinn")


def test_the_arguments_of_compile_are_the_request_s() -> None:
    asked = set(inspect.signature(vitc.compile).parameters) - {"model"}
    assert asked == {f.name for f in fields(Request)}
    assert set(inspect.signature(vitc.plan).parameters) - {"model"} == asked - {"evaluate", "max_drop"}


def test_calibration_that_no_pass_reads_is_said() -> None:
    torch.manual_seed(0)
    with pytest.raises(InputError, match=r"calibration= was given and no pass read it; the passes were drop-noops"):
        vitc.plan(
            DigitsViT(depth=1).eval(),
            example_inputs=IMAGES[:2],
            calibration=IMAGES,
            prune={"params": 0.2, "criterion": "l1"},
            quantize=None,
        )


def test_data_that_can_be_read_once_is_read_as_often_as_needed() -> None:
    torch.manual_seed(0)
    made = vitc.plan(
        DigitsViT(depth=1).eval(), "orin", example_inputs=IMAGES[:2], calibration=iter(IMAGES.split(2)), prune=0.2
    )
    assert made.report.pipeline.count("prune{") == 1
    assert made.quantized


def test_a_plan_plans_itself_again() -> None:
    torch.manual_seed(0)
    made = vitc.plan(DigitsViT(depth=1).eval(), "orin", example_inputs=IMAGES[:2], calibration=IMAGES)
    floating = made.without_int8()
    assert made.quantized
    assert not floating.quantized
    assert floating.report.pipeline == vitc.plan(
        DigitsViT(depth=1).eval(), "orin", example_inputs=IMAGES[:2]
    ).report.pipeline  # fmt: skip


def test_reports_are_one_kind_of_thing_and_the_old_spellings_warn(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = DigitsViT(depth=1).eval()
    compiled = vitc.compile(model, example_inputs=IMAGES[:2])
    pruned = vitc.prune(model, 0.2, example_inputs=IMAGES[:2])
    for report in (vitc.plan(model, example_inputs=IMAGES[:2]).report, compiled.report, pruned.report):
        assert str(report) == report.text()
        assert isinstance(report.to_dict(), dict)
    with pytest.warns(DeprecationWarning, match="write compiled.report"):
        assert compiled.report() is compiled.report
    with pytest.warns(DeprecationWarning, match="a report is no str"):
        assert pruned.report.splitlines() == pruned.report.text().splitlines()
    with pytest.raises(AttributeError, match=r"it has text\(\) and to_dict\(\)"):
        _ = pruned.report.colour
