"""Sensitivity: running from the middle equals running the whole, and the table shows it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

import vitc
import vitc.targets
from vitc.calibration.stream import CalibrationStream
from vitc.demo.digits import DigitsViT
from vitc.errors import CalibrationError, InputError, PipelineError
from vitc.frontend.capture import capture
from vitc.mixed.measure import Measure, Split, by_block, groups, kl_divergence
from vitc.pipeline import parse_pipeline
from vitc.pipeline.default import default_pipeline

IMAGES = torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return DigitsViT(dim=32, depth=3).eval()


def _split(model: torch.nn.Module) -> Split:
    target = vitc.targets.load("orin")
    program = capture(model, target, IMAGES[:2]).evolve(calibration=CalibrationStream(IMAGES, ((1, 8, 8),)))
    return Split.of(program, default_pipeline(target, int8=True))


def test_from_the_middle_is_the_same_as_from_the_start(model: torch.nn.Module) -> None:
    split = _split(model)
    found = groups(split, by_block)
    assert list(found) == ["blocks.0", "blocks.1", "blocks.2"]
    measure = Measure(split, found, images=12)
    for name, sites in found.items():
        with torch.no_grad():
            want, got = split.program.module(IMAGES), measure.quantized(sites).module(IMAGES)
        sqnr = 10 * torch.log10(want.square().sum() / (want - got).square().sum())
        assert measure.row(name, sites).sqnr_db == pytest.approx(float(sqnr), abs=0.05)


def test_table_and_plot(model: torch.nn.Module, tmp_path: Path) -> None:
    found = vitc.sensitivity(
        model, "orin", calibration=IMAGES, example_inputs=IMAGES[:2], evaluate=lambda m: float(m(IMAGES).shape[1])
    )
    assert [row.name for row in found.rows] == ["blocks.0", "blocks.1", "blocks.2"]
    assert found.together.sqnr_db < min(row.sqnr_db for row in found.rows)
    assert found.score == found.rows[0].score == 10.0
    assert all(row.saved_ms is not None for row in found.rows)
    assert "blocks.1" in str(found)
    # The noise of blocks is independent enough to add up; the table says how well.
    assert found.added_db == pytest.approx(-10 * math.log10(sum(10 ** (-row.sqnr_db / 10) for row in found.rows)))
    assert found.together.sqnr_db == pytest.approx(found.added_db, abs=3.0)
    assert f"the noise of each alone adds up to {found.added_db:.1f} dB" in str(found)
    assert json.loads(json.dumps(found.to_dict()))["added_db"] == found.added_db
    found.save_svg(tmp_path / "plot.svg")
    assert len(ElementTree.parse(tmp_path / "plot.svg").getroot().findall("{*}rect")) == 3


def test_layers(model: torch.nn.Module) -> None:
    found = vitc.sensitivity(model, "cpu", calibration=IMAGES, example_inputs=IMAGES[:2], by="layer", images=4)
    assert [row.name for row in found.rows][:4] == [
        "blocks.0.attn.qkv",
        "blocks.0.attn.proj",
        "blocks.0.mlp.0",
        "blocks.0.mlp.2",
    ]
    assert found.images == 4


def test_refusals(model: torch.nn.Module) -> None:
    with pytest.raises(PipelineError, match="need a pipeline with quantize-int8"):
        vitc.sensitivity(model, calibration=IMAGES, example_inputs=IMAGES[:2], pipeline="drop-noops")
    with pytest.raises(CalibrationError, match="need calibration=images"):
        Split.of(capture(model, vitc.targets.load("cpu"), IMAGES[:2]), parse_pipeline("quantize-int8"))
    with pytest.raises(InputError, match="evaluate returned inf"):
        vitc.sensitivity(model, calibration=IMAGES, example_inputs=IMAGES[:2], evaluate=lambda _: float("inf"))


def test_kl_divergence_against_torch() -> None:
    want, got = torch.randn(5, 7), torch.randn(5, 7)
    exact = torch.nn.functional.kl_div(got.log_softmax(1), want.softmax(1), reduction="batchmean")
    assert kl_divergence(want, got) == pytest.approx(float(exact), rel=1e-5)
    assert kl_divergence(torch.randn(5, 7, 3), torch.randn(5, 7, 3)) is None
