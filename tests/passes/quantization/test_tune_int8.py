"""tune-int8: a pass like any other, whose output quantize-int8 takes as it is."""

from __future__ import annotations

import pytest
import torch
from programs import TILED, captured, outputs, through

from vitc.calibration.stream import CalibrationStream
from vitc.demo.digits import DigitsViT
from vitc.errors import CalibrationError, PassError
from vitc.graph.printer import print_graph
from vitc.graph.program import Program

IMAGES = torch.randn(512, 1, 8, 8, generator=torch.Generator().manual_seed(1))
UNSEEN = torch.randn(128, 1, 8, 8, generator=torch.Generator().manual_seed(2))
SHAPE = (1, 8, 8)


@pytest.fixture
def tiled() -> Program:
    torch.manual_seed(0)
    model = DigitsViT(32, 2)
    with torch.no_grad():
        model.head.weight *= 10  # outputs that differ
        for block in model.blocks:  # two large columns in the weights: what INT8 makes of the others is poor
            for norm, linear in ((block.norm1, block.attn.qkv), (block.norm2, block.mlp[0])):
                norm.weight[:2] /= 100
                norm.bias[:2] /= 100
                linear.weight[:, :2] *= 100
    program = through(captured(model, IMAGES[:2], target="cpu"), TILED)
    return program.evolve(calibration=CalibrationStream(IMAGES, (SHAPE,)))


def _divergence(want: torch.Tensor, got: torch.Tensor) -> float:
    """Kullback–Leibler, of the classes' probabilities."""
    return float((want.softmax(1) * (want.log_softmax(1) - got.log_softmax(1))).sum(1).mean())


@pytest.mark.parametrize("steps", ["false", "true"])
def test_tuning_lowers_the_error_of_int8(steps: str, tiled: Program) -> None:
    want = outputs(tiled, UNSEEN)
    plain = outputs(through(tiled, "quantize-int8{attention=false}"), UNSEEN)
    program = through(tiled, f"tune-int8{{epochs=4,learn_steps={steps}}},quantize-int8{{attention=false}}")
    tuned = outputs(program, UNSEEN)
    assert _divergence(want, tuned) < 0.2 * _divergence(want, plain)
    assert program.stage == "quantized"
    notes = [note for entry in program.journal for note in entry.notes]
    assert any("tuned: divergence of INT8 from floating point" in note and "logits: 96 steps" in note for note in notes)
    torch.testing.assert_close(outputs(tiled, UNSEEN), want)  # the given program is as it was


def test_what_training_makes_worse_stays_as_it_is(tiled: Program) -> None:
    program = through(tiled, "tune-int8{rate=1.0}")
    (note,) = program.journal[-1].notes
    assert "left as it is, training did not help: divergence of INT8 from floating point" in note
    assert all(torch.equal(a, b) for a, b in zip(tiled.module.parameters(), program.module.parameters(), strict=True))


def test_the_batch_stays_symbolic(tiled: Program) -> None:
    program = through(tiled, "tune-int8{epochs=1}")
    for one in (tiled, program):
        (images,) = (n for n in one.graph.nodes if n.op == "placeholder")
        assert not isinstance(images.meta["val"].shape[0], int)
        assert print_graph(one.graph).startswith(f"%{images.name} : f32[batch, 1, 8, 8]")


def test_one_image_trains_and_judges(tiled: Program) -> None:
    one = tiled.evolve(calibration=CalibrationStream(IMAGES[:1], (SHAPE,)))
    notes = through(one, "tune-int8{epochs=1}").journal[-1].notes
    assert "divergence of INT8 from floating point" in notes[-1]


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
    program = through(captured(Two(), x[:2], x[:2]), TILED).evolve(
        calibration=CalibrationStream([(x, x)], ((4,), (4,)))
    )
    with pytest.raises(PassError, match="tune-int8 trains models of one input, this one has 2"):
        through(program, "tune-int8")
