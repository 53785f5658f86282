"""vitc.compile and vitc.plan, end to end on small models."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

import vitc
from vitc.demo.digits import DigitsViT
from vitc.errors import CalibrationError, CaptureError, InputError, PipelineError, TargetError

IMAGES = torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return DigitsViT(depth=2).eval()


def test_fp32_matches_eager_at_every_batch(model: torch.nn.Module) -> None:
    compiled = vitc.compile(model, "cpu", example_inputs=IMAGES[:2])
    for batch in (1, 3, 12):
        with torch.no_grad():
            want = model(IMAGES[:batch])
        torch.testing.assert_close(compiled(IMAGES[:batch]), want, rtol=1e-4, atol=1e-5)


def test_numpy_in_numpy_out(model: torch.nn.Module) -> None:
    compiled = vitc.compile(model, "cpu", example_inputs=IMAGES[:2])
    out = compiled(IMAGES[:2].numpy())
    assert isinstance(out, np.ndarray)
    np.testing.assert_allclose(out, compiled(IMAGES[:2]).numpy())


def test_inputs_that_a_call_refuses(model: torch.nn.Module) -> None:
    compiled = vitc.compile(model, "cpu", example_inputs=IMAGES[:2])
    spoilt = IMAGES[:3].clone()
    spoilt[1, 0, 2, 3] = torch.nan
    with pytest.raises(InputError, match=r"holds 1 NaN or infinite values, the first at \[1, 0, 2, 3\] of image 1"):
        compiled(spoilt)
    assert compiled.with_check_inputs("none")(spoilt)[1].isnan().any()
    for odd in (IMAGES[:1].bfloat16(), IMAGES[:1].to("meta"), IMAGES[:1].to_sparse()):
        with pytest.raises(InputError, match="can't be an array|is a sparse or quantized tensor"):
            compiled(odd)
    for options in ({"rounds": 0}, {"batch": 0}, {"batch": 200_000}, {"rounds": 1.5}):
        with pytest.raises(InputError, match="a whole number from 1 on|compiled for a batch of 1 to 64"):
            compiled.benchmark(**options)  # type: ignore[arg-type]


def test_structure_comes_back() -> None:
    @dataclass
    class _Pair:
        logits: torch.Tensor

    class Nested(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> dict[str, object]:
            y = self.linear(x)
            return {"a": y, "b": (y + 1, [y * 2]), "none": None}

    x = torch.randn(3, 4)
    model = Nested().eval()
    out, want = vitc.compile(model, "cpu", example_inputs=x)(x), model(x)
    assert list(out) == ["a", "b", "none"]
    assert out["none"] is None
    torch.testing.assert_close(out["b"][1][0], want["b"][1][0])


def test_quantize_takes_options_of_the_pass(model: torch.nn.Module) -> None:
    made = vitc.plan(
        model, "orin", example_inputs=IMAGES[:2], calibration=IMAGES, quantize="quantize-int8{rounding=gptq}"
    )
    assert "smooth-activations,quantize-int8{rounding=gptq},to-fp16" in made.report.pipeline
    with pytest.raises(PipelineError, match="unknown option of pass 'quantize-int8' 'rouding'"):
        vitc.plan(model, "orin", example_inputs=IMAGES[:2], calibration=IMAGES, quantize="quantize-int8{rouding=gptq}")
    with pytest.raises(InputError, match="quantize must be 'auto', 'int8', None or 'quantize-int8"):
        vitc.plan(model, "orin", example_inputs=IMAGES[:2], calibration=IMAGES, quantize="quantize-int8,to-fp16")
    with pytest.raises(CalibrationError, match=r"quantize='quantize-int8\{head=true\}' needs calibration=images"):
        vitc.plan(model, "orin", example_inputs=IMAGES[:2], quantize="quantize-int8{head=true}")


@pytest.mark.parametrize("calibration", [IMAGES, IMAGES[:1], [IMAGES[:5], IMAGES[5:]]], ids=["fours", "one", "mixed"])
def test_a_fixed_batch_is_calibrated_with_batches_of_any_size(model: torch.nn.Module, calibration: object) -> None:
    made = vitc.plan(model, "orin", example_inputs=IMAGES[:3], calibration=calibration, batch=None)
    assert made.program.stage == "quantized"
    (out,) = made.program.run(IMAGES[:3])
    with torch.no_grad():
        assert torch.cosine_similarity(out.flatten(), model(IMAGES[:3]).flatten(), dim=0) > 0.98


def test_int8_for_orin_has_plugins_and_smaller_weights(model: torch.nn.Module, tmp_path: Path) -> None:
    compiled = vitc.compile(model, "orin", example_inputs=IMAGES[:2], calibration=IMAGES, dump=tmp_path)
    report = compiled.report
    assert report.weight_bytes_after < 0.4 * report.weight_bytes_before
    assert len(report.attentions) == 2
    assert all(choice.kernel for choice in report.attentions)
    assert report.predicted_ms is not None
    assert "quantize-int8" in report.pipeline
    assert sorted(p.name for p in tmp_path.iterdir())[0] == "00-captured.txt"


def test_printed_pipeline_reproduces_the_run(model: torch.nn.Module) -> None:
    first = vitc.plan(model, "orin", example_inputs=IMAGES[:2], calibration=IMAGES)
    again = vitc.plan(model, "orin", example_inputs=IMAGES[:2], calibration=IMAGES, pipeline=first.report.pipeline)
    assert again.onnx.proto.SerializeToString() == first.onnx.proto.SerializeToString()


def test_a_cpu_measures_int8_and_says_so(model: torch.nn.Module) -> None:
    report = vitc.compile(model, "cpu", example_inputs=IMAGES[:2], calibration=IMAGES).report
    assert set(report.measured_ms) == {"FP32", "INT8"}
    assert any("on this machine" in d for d in report.decisions)


def test_threads_get_their_own_answers(model: torch.nn.Module) -> None:
    compiled = vitc.compile(model, "cpu", example_inputs=IMAGES[:2])
    want = [compiled(IMAGES[i : i + 1]) for i in range(8)]
    got: list[torch.Tensor | None] = [None] * 8

    def call(i: int) -> None:
        for _ in range(20):
            got[i] = compiled(IMAGES[i : i + 1])

    threads = [threading.Thread(target=call, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for a, b in zip(want, got, strict=True):
        torch.testing.assert_close(a, b)


def test_bundle_round_trip(model: torch.nn.Module, tmp_path: Path) -> None:
    compiled = vitc.compile(model, "orin", example_inputs=IMAGES[:2], calibration=IMAGES)
    bundle = compiled.save(tmp_path / "digits.vitc", "file")
    assert bundle.manifest.pipeline == compiled.report.pipeline
    runner = vitc.load(tmp_path / "digits.vitc")
    out = runner(IMAGES[:3].numpy())
    np.testing.assert_allclose(np.asarray(out), compiled(IMAGES[:3]).numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c(), "missing inputs: x"),
        (lambda c: c(IMAGES[:1], IMAGES[:1]), "the model takes 1 inputs"),
        (lambda c: c(y=IMAGES[:1]), "unknown input 'y'"),
        (lambda c: c(IMAGES[:1], x=IMAGES[:1]), "given twice"),
        (lambda c: c(IMAGES[:1, :, :4]), r"has shape \[1, 1, 4, 8\], the model takes \[batch, 1, 8, 8\]"),
        (lambda c: c(IMAGES[:1].double()), "has dtype float64, the model takes float32"),
        (lambda c: c(torch.zeros(65, 1, 8, 8)), "batch size 65, compiled for 1 to 64"),
        (lambda c: c("image.png"), "must be a torch tensor or NumPy array, got str"),
    ],
)
def test_bad_inputs(model: torch.nn.Module, call, message: str) -> None:  # type: ignore[no-untyped-def]
    compiled = vitc.compile(model, "cpu", example_inputs=IMAGES[:2])
    with pytest.raises(InputError, match=message):
        call(compiled)


def test_bad_arguments(model: torch.nn.Module) -> None:
    with pytest.raises(TargetError, match="unknown target 'orim'.*orin"):
        vitc.plan(model, "orim", example_inputs=IMAGES[:2])
    with pytest.raises(CalibrationError, match="quantize='int8' needs calibration"):
        vitc.plan(model, "orin", example_inputs=IMAGES[:2], quantize="int8")
    with pytest.raises(InputError, match="quantize must be"):
        vitc.plan(model, "orin", example_inputs=IMAGES[:2], quantize="int4")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="quantize must be .*, got 8"):
        vitc.plan(model, "orin", example_inputs=IMAGES[:2], quantize=8)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="attention must be .*, got None"):
        vitc.plan(model, "orin", example_inputs=IMAGES[:2], attention=None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="evaluate needs max_drop"):
        vitc.compile(model, "orin", example_inputs=IMAGES[:2], evaluate=lambda _: 1.0)
    with pytest.raises(InputError, match="max_drop must be a number that is not negative, got -0.1"):
        vitc.compile(model, "orin", example_inputs=IMAGES[:2], max_drop=-0.1)
    with pytest.raises(InputError, match="has no config that tells its input size"):
        vitc.plan(model, "orin")
    with pytest.raises(CaptureError, match="training mode"):
        vitc.plan(DigitsViT(depth=1), "orin", example_inputs=IMAGES[:2])
    with pytest.raises(InputError, match="evaluate returned nan"):
        vitc.compile(
            model, "orin", example_inputs=IMAGES[:2], calibration=IMAGES, evaluate=lambda _: float("nan"), max_drop=0.1
        )
