"""Calibration that was killed goes on where it was, to the same result; of other images or files it says so."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import vitc
from vitc.calibration import journal
from vitc.compiler.planning import Plan
from vitc.demo.digits import DigitsViT
from vitc.errors import CalibrationError, InputError
from vitc.passes.quantization.rounding import blockwise, layerwise

BATCHES = [torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(6)]


@pytest.fixture(autouse=True)
def _saved_after_each_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_SECONDS", 0.0)


def _plan(folder: Path | None, calibration: object = BATCHES, quantize: str = "int8") -> Plan:
    torch.manual_seed(0)
    model = DigitsViT(dim=64, depth=2).eval()
    return vitc.plan(
        model, "orin", example_inputs=BATCHES[0][:2], calibration=calibration, quantize=quantize, resume=folder
    )


def _assert_same(a: Plan, b: Plan) -> None:
    assert a.program.findings.to_dict() == b.program.findings.to_dict()
    assert a.onnx.proto.SerializeToString() == b.onnx.proto.SerializeToString()


class _Stream:
    """The batches; the `fails_at`-th reading of one raises."""

    def __init__(self, fails_at: int) -> None:
        self.fails_at, self.read = fails_at, 0

    def __iter__(self) -> Iterator[torch.Tensor]:
        for batch in BATCHES:
            self.read += 1
            if self.read == self.fails_at:
                raise OSError("the disk is away")
            yield batch


# In the middle of smoothing's reading, and of that for the ranges.
@pytest.mark.parametrize("fails_at", [4, 10])
def test_a_calibration_that_broke_off_goes_on(tmp_path: Path, fails_at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CalibrationError, match=f"raised OSError at batch {(fails_at - 1) % 6}"):
        _plan(tmp_path, _Stream(fails_at))
    shown = 0
    update = journal.state_file.write

    def counted(*args: object) -> None:
        nonlocal shown
        shown += 1
        update(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(journal.state_file, "write", counted)
    resumed = _plan(tmp_path)
    # One save a batch that was run, and one as each reading ends: what the first run has shown is not run again.
    assert shown == 2 * len(BATCHES) - (fails_at - 1) + 2 - fails_at // 6
    _assert_same(resumed, _plan(None))
    shown = 0
    _assert_same(_plan(tmp_path), resumed)
    assert shown == 0  # nothing left to find


def _run(folder: Path) -> None:
    journal._SECONDS = 0.0

    def slowly() -> Iterator[torch.Tensor]:
        for batch in BATCHES:
            yield batch
            time.sleep(0.5)

    _plan(folder, slowly())


def test_a_killed_process(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_run, args=(tmp_path,))
    process.start()
    while not list(tmp_path.glob("calibration/*.safetensors")) and process.is_alive():
        time.sleep(0.05)
    process.kill()
    process.join()
    assert list(tmp_path.glob("calibration/*.safetensors"))
    _assert_same(_plan(tmp_path), _plan(None))


@pytest.mark.parametrize(("rounding", "module"), [("gptq", layerwise), ("adaround", blockwise)])
def test_a_rounding_goes_on_at_the_layer_or_block_it_was_at(
    tmp_path: Path, rounding: str, module: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blockwise, "_STEPS", 20)
    text = f"quantize-int8{{rounding={rounding}}}"
    whole = _plan(None, quantize=text)
    calls: list[int] = []
    found = module._round  # type: ignore[attr-defined]

    def broken(*args: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return found(*args)

    monkeypatch.setattr(module, "_round", broken)
    with pytest.raises(KeyboardInterrupt):
        _plan(tmp_path, quantize=text)
    resumed = _plan(tmp_path, quantize=text)
    places = 8 if rounding == "gptq" else 2
    assert len(calls) == 1 + places  # the first is not computed again; the second was broken off
    _assert_same(resumed, whole)
    notes = [[entry.notes for entry in made.report.journal] for made in (resumed, whole)]
    assert notes[0] == notes[1]


def test_other_images_are_refused(tmp_path: Path) -> None:
    _plan(tmp_path)
    with pytest.raises(
        CalibrationError, match=r"first 6 calibration batches are not those that .*name another resume folder"
    ):
        _plan(tmp_path, BATCHES[::-1])
    with pytest.raises(CalibrationError, match="first 6 calibration batches are not those"):
        _plan(tmp_path, BATCHES[:3])


def test_another_model_has_answers_of_its_own(tmp_path: Path) -> None:
    _plan(tmp_path)
    before = set(tmp_path.rglob("*.safetensors"))
    torch.manual_seed(1)
    model = DigitsViT(dim=64, depth=2).eval()
    made = vitc.plan(model, "orin", example_inputs=BATCHES[0][:2], calibration=BATCHES, resume=tmp_path)
    alone = vitc.plan(model, "orin", example_inputs=BATCHES[0][:2], calibration=BATCHES)
    _assert_same(made, alone)
    assert len(set(tmp_path.rglob("*.safetensors")) - before) == 2


def test_a_damaged_file(tmp_path: Path) -> None:
    _plan(tmp_path)
    for file in tmp_path.rglob("*.safetensors"):
        file.write_bytes(b"{")
    with pytest.raises(CalibrationError, match=r"is no calibration journal .*give another path, or delete it"):
        _plan(tmp_path)


def test_a_folder_without_calibration(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="resume= keeps what calibration and the search of a mix find, and there is no calibration"
    ):
        vitc.plan(DigitsViT(dim=64, depth=2).eval(), "orin", example_inputs=BATCHES[0][:2], resume=tmp_path)
