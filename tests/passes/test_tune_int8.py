"""tune-int8: a pass like any other, whose output quantize-int8 takes as it is."""

from __future__ import annotations

import pytest
import torch
from support import TILED, captured, outputs, through

from vitc.calibration import CalibrationStream
from vitc.demo.digits import DigitsViT
from vitc.errors import CalibrationError, PassError
from vitc.program import Program

IMAGES = torch.randn(48, 1, 8, 8, generator=torch.Generator().manual_seed(1))
SHAPE = (1, 8, 8)


@pytest.fixture
def tiled() -> Program:
    torch.manual_seed(0)
    model = DigitsViT(32, 2)
    with torch.no_grad():
        model.head.weight *= 10  # outputs that differ
        model.blocks[0].norm1.weight[:3] *= 60  # outlier channels: INT8 is poor
    program = through(captured(model, IMAGES[:2], target="cpu"), TILED)
    return program.evolve(calibration=CalibrationStream(IMAGES, (SHAPE,)))


def _divergence(want: torch.Tensor, got: torch.Tensor) -> float:
    """Kullback–Leibler, of the classes' probabilities."""
    return float((want.softmax(1) * (want.log_softmax(1) - got.log_softmax(1))).sum(1).mean())


@pytest.mark.parametrize("steps", ["false", "true"])
def test_tuning_lowers_the_error_of_int8(steps: str, tiled: Program) -> None:
    want = outputs(tiled, IMAGES)
    plain = outputs(through(tiled, "quantize-int8{attention=false}"), IMAGES)
    program = through(tiled, f"tune-int8{{epochs=20,rate=0.001,learn_steps={steps}}},quantize-int8{{attention=false}}")
    tuned = outputs(program, IMAGES)
    assert _divergence(want, tuned) < 0.7 * _divergence(want, plain)
    assert program.stage == "quantized"
    assert any("tuned: logits: 60 steps" in note for entry in program.journal for note in entry.notes)
    torch.testing.assert_close(outputs(tiled, IMAGES), want)  # the given program is as it was


def test_no_calibration(tiled: Program) -> None:
    with pytest.raises(CalibrationError, match=r"INT8 needs ranges|tune-int8 trains on the calibration data"):
        through(tiled.evolve(calibration=None), "tune-int8")


def test_two_inputs() -> None:
    class Two(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = torch.nn.Linear(4, 4), torch.nn.Linear(4, 2)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return self.head(self.inner(x) + y)

    x = torch.randn(8, 4)
    program = through(captured(Two(), x[:2], x[:2]), TILED).evolve(calibration=CalibrationStream([(x, x)], ((4,), (4,))))
    with pytest.raises(PassError, match="tune-int8 trains models of one input, this one has 2"):
        through(program, "tune-int8")
