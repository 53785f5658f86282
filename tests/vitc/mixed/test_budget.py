"""The budget: the fewest blocks go, the ledger says why, and a killed search goes on to the same result."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import vitc
from vitc.compiler.compiled import CompiledModel
from vitc.demo.digits import DigitsViT
from vitc.errors import InputError
from vitc.files import sealed_json
from vitc.mixed.budget import search
from vitc.mixed.journal import SearchJournal
from vitc.mixed.records import SensitivityRow
from vitc.passes.quantization.quantize_int8 import QuantizeInt8
from vitc.passes.quantization.ranges import Sites
from vitc.targets import Target

IMAGES = torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
Score = Callable[[QuantizeInt8 | None], float]


class _Measure:
    """Block i alone gives noise 10^-i; nothing is run."""

    class split:
        quantize = QuantizeInt8(attention=False)

    def row(self, name: str, sites: Sites, quantize: Any = None) -> SensitivityRow:
        return SensitivityRow(name, 10.0 * (1 + int(name)), None, None, None, None)


def _search(score: Score, saved: dict[str, float] | None = None, drop: float = 0.1) -> Any:
    blocks = {str(i): Sites() for i in range(8)}
    return search(_Measure(), blocks, saved, score, drop, SearchJournal(None, {}))  # type: ignore[arg-type]


@pytest.mark.parametrize("needed", range(9))
def test_bisection_gives_back_the_fewest_blocks(needed: int) -> None:
    asked: list[QuantizeInt8 | None] = []

    def score(mix: QuantizeInt8 | None) -> float:
        asked.append(mix)
        return 1.0 if mix is None or set(map(str, range(needed))) <= set(mix.skip) else 0.5

    found = _search(score)
    if needed == 8:
        assert found.quantize is None
        assert "no mix that was tried keeps the score" in found.ledger.verdict
    else:
        assert found.quantize.skip == tuple(map(str, range(needed)))
    assert len(asked) <= 2 + 4
    assert [e.choice for e in found.ledger.entries] == ["floating point"] * needed + ["INT8"] * (8 - needed)


def test_a_ledger_without_milliseconds_says_why() -> None:
    text = _search(lambda _: 1.0).ledger.text()
    assert "no milliseconds, noise decided: the target has no figures to predict from, or no CPU engine is here" in text
    assert "no milliseconds" not in _search(lambda _: 1.0, dict.fromkeys(map(str, range(8)), 0.1)).ledger.text()


def test_the_worst_bargain_goes_first() -> None:
    saved = {str(i): 1.0 for i in range(8)} | {"3": 0.0001}
    found = _search(lambda mix: 1.0 if mix is None or mix.skip else 0.5, saved)
    assert found.quantize.skip == ("3",)


def test_int8_that_does_not_pay_is_left_out() -> None:
    found = _search(lambda _: 1.0, dict.fromkeys(map(str, range(8)), -0.1))
    assert found.quantize is None
    assert "INT8 does not pay here" in found.ledger.verdict
    found = _search(lambda _: 1.0, dict.fromkeys(map(str, range(8)), 0.1) | {"5": -0.1})
    assert found.quantize.skip == ("5",)
    assert found.ledger.entries[5].reason == "INT8 is not faster here"


def test_int8_everywhere_that_held_is_not_given_up_for_a_score_that_jumps() -> None:
    """One block is useless, INT8 everywhere holds, every other mix loses an image: a score need not be smooth."""
    found = _search(
        lambda mix: 1.0 if mix is None or not mix.skip else 0.5, dict.fromkeys(map(str, range(8)), 0.1) | {"5": -0.01}
    )
    assert found.quantize is not None
    assert found.quantize.skip == ()
    assert found.ledger.verdict == "INT8 everywhere keeps the score"
    assert [entry.choice for entry in found.ledger.entries] == ["INT8"] * 8


def test_of_what_held_the_fastest_is_taken() -> None:
    """Without the useless block the score holds too, and that is faster than INT8 everywhere."""
    found = _search(lambda _: 1.0, dict.fromkeys(map(str, range(8)), 0.1) | {"5": -0.1})
    assert [label for label, _ in found.ledger.trials][:2] == ["floating point", "INT8 everywhere"]
    assert found.quantize.skip == ("5",)
    assert found.ledger.verdict == "INT8 in 7 of 8 blocks, within 0.1 of the score in floating point"


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return DigitsViT(dim=64, depth=2).eval()


def _needs_the_first_block(candidate: Any) -> float:
    pipeline = candidate.report.pipeline
    return 0.9 if "blocks.0" in pipeline or "quantize-int8" not in pipeline else 0.8


def _compile(model: torch.nn.Module, **options: Any) -> CompiledModel:
    return vitc.compile(model, "orin", example_inputs=IMAGES[:2], calibration=IMAGES, **options)


def test_compile_within_a_budget(model: torch.nn.Module) -> None:
    report = _compile(model, evaluate=_needs_the_first_block, max_drop=0.05).report
    assert "quantize-int8{convolutions=true,head=true,skip=[patch,head,blocks.0]}" in report.pipeline
    assert report.ledger is not None
    # The first and the last layer take part; they save little for their noise, so they go first.
    choices = {e.block: (e.choice, round(e.score_change or 0.0, 6)) for e in report.ledger.entries}
    assert choices == {
        "patch": ("floating point", 0.0), "blocks.0": ("floating point", -0.1), "blocks.1": ("INT8", 0.0),
        "head": ("floating point", 0.0)
    }  # fmt: skip
    # Of the twelve images of a random model one lies between two classes.
    assert [round(12 * (e.agreement or 0.0)) for e in report.ledger.entries] == [12, 11, 12, 12]
    assert "91.67% same class, score -0.1000" in str(report)
    assert "INT8 in 1 of 4 blocks, within 0.05" in str(report)
    again = vitc.plan(model, "orin", example_inputs=IMAGES[:2], calibration=IMAGES, pipeline=report.pipeline)
    assert again.report.weight_bytes_after == report.weight_bytes_after


def test_the_first_and_last_layer_are_left_alone_where_the_user_says_so(model: torch.nn.Module) -> None:
    ledger = _compile(model, max_drop=0.5, quantize="quantize-int8{head=true}").report.ledger
    assert ledger is not None
    assert [e.block for e in ledger.entries] == ["blocks.0", "blocks.1", "head"]
    assert ledger.entries[0].score_change is None  # no evaluate, nothing to ask
    assert ", score" not in ledger.text()


def test_floating_point_when_nothing_keeps_the_score(model: torch.nn.Module) -> None:
    compiled = _compile(model, evaluate=lambda c: 0.5 if "quantize" in c.report.pipeline else 0.9, max_drop=0.05)
    assert compiled.program.stage == "tiled"
    assert "no mix that was tried keeps the score within 0.05" in compiled.report.decisions[-1]


def test_without_labels_the_score_is_agreement(model: torch.nn.Module) -> None:
    ledger = _compile(model, max_drop=0.0).report.ledger
    assert ledger is not None
    assert ledger.trials[0] == ("floating point", 1.0)


def test_a_killed_search_goes_on_to_the_same_result(model: torch.nn.Module, tmp_path: Path) -> None:
    whole = _compile(model, evaluate=_needs_the_first_block, max_drop=0.05, resume=tmp_path / "whole").report
    calls = 0

    def killed(candidate: Any) -> float:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return _needs_the_first_block(candidate)

    with pytest.raises(KeyboardInterrupt):
        _compile(model, evaluate=killed, max_drop=0.05, resume=tmp_path / "cut")
    calls = 10
    resumed = _compile(model, evaluate=killed, max_drop=0.05, resume=tmp_path / "cut").report
    assert calls > 10  # the answer of the first call was not asked again
    assert (resumed.pipeline, resumed.ledger) == (whole.pipeline, whole.ledger)
    files = [json.loads((tmp_path / name / "vitc-search.json").read_text()) for name in ("whole", "cut")]
    assert files[0] == files[1]


def test_on_a_cpu_the_ledger_has_milliseconds_by_measured_rates(
    model: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rates(factor: float) -> None:
        tera = {"fp32_tflops": 0.1 * factor, "fp16_tflops": 0.1 * factor, "int8_tops": 0.4 * factor}

        def known(target: Target) -> Target:
            return target.with_measured(**tera, memory_gbs=20.0, source="a test")

        monkeypatch.setattr("vitc.mixed.measure.measured_here", known)

    def ledger(factor: float) -> Any:
        rates(factor)
        options = {"example_inputs": IMAGES[:2], "calibration": IMAGES, "quantize": "int8", "max_drop": 0.5}
        return vitc.compile(model, "cpu", resume=tmp_path, **options).report.ledger

    first = ledger(1.0)
    saved = {entry.block: entry.saved_ms for entry in first.entries}
    assert saved["blocks.0"] > 0
    assert saved["blocks.1"] > 0
    assert "INT8 is not faster here" in first.text()  # the patch embedding of 4 × 4 patches
    assert "ms saved" in first.text()
    assert ledger(2.0) == first  # a search that goes on keeps the rates that it began with


def test_a_journal_of_another_search_is_refused(model: torch.nn.Module, tmp_path: Path) -> None:
    _compile(model, max_drop=0.0, resume=tmp_path)
    with pytest.raises(InputError, match=r"belongs to another search: max_drop is 0.0 there and 0.1 here"):
        _compile(model, max_drop=0.1, resume=tmp_path)
    torch.manual_seed(1)
    with pytest.raises(InputError, match=r"model is \w{12} there and \w{12} here"):
        _compile(DigitsViT(dim=64, depth=2).eval(), max_drop=0.0, resume=tmp_path)
    (tmp_path / "vitc-search.json").write_text("{")
    with pytest.raises(InputError, match="is not the journal of a search"):
        _compile(model, max_drop=0.0, resume=tmp_path)
    (tmp_path / "vitc-search.json").write_text('{"form": 99, "identity": {}, "answers": {}}')
    with pytest.raises(InputError, match="has the form 99, this vitc reads 2"):
        _compile(model, max_drop=0.0, resume=tmp_path)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([], "is not the journal of a search \\(no identity, no answers\\)"),
        ({"score": [1]}, "answers 'score' with what is no answer"),
        ({"score": None}, "answers 'score' with what is no answer"),
    ],
)
def test_a_journal_of_other_types_is_refused(tmp_path: Path, answers: object, message: str) -> None:
    sealed_json.write(tmp_path / "vitc-search.json", {"form": 2, "identity": {}, "answers": answers})
    with pytest.raises(InputError, match=message):
        SearchJournal(tmp_path, {}).ask("score", lambda: 1.0, float)


def test_every_flipped_byte_of_a_journal_is_refused(tmp_path: Path) -> None:
    SearchJournal(tmp_path, {"model": "a"}).ask("score", lambda: 0.25, float)
    path = tmp_path / "vitc-search.json"
    data = path.read_bytes()
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        try:
            kept = SearchJournal(tmp_path, {"model": "a"}).ask("score", lambda: 1.0, float)
        except InputError:
            continue
        assert kept == 0.25, at  # a blank between two values, nothing else


def test_an_evaluate_that_returns_nan(model: torch.nn.Module) -> None:
    with pytest.raises(InputError, match="evaluate returned nan; it must return a finite number"):
        _compile(model, evaluate=lambda _: float("nan"), max_drop=0.1)
