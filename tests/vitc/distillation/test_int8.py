"""Training with INT8 in view: the student computes what the INT8 graph will, and learns by it."""

from __future__ import annotations

import pytest
import torch

import vitc
from vitc.calibration.findings import Findings
from vitc.calibration.stream import CalibrationStream
from vitc.demo.digits import DigitsViT
from vitc.distillation.int8 import FakeQuantized, round_activation, round_weight
from vitc.errors import CalibrationError
from vitc.frontend.capture import capture
from vitc.graph.program import Program
from vitc.passes.quantization.quantize_int8 import QuantizeInt8
from vitc.passes.quantization.scales import fake_quantize, fake_quantize_weight
from vitc.pipeline import parse_pipeline, run_pipeline
from vitc.pipeline.default import CANONICAL

IMAGES = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(1))
INT8 = QuantizeInt8(attention=False, correct_bias=False)
FULL = parse_pipeline("quantize-int8{attention=false}")


@pytest.fixture
def teacher() -> torch.nn.Module:
    torch.manual_seed(0)
    return DigitsViT(32, 2).eval()


def _tiled(model: torch.nn.Module, calibrated: bool = True) -> Program:
    program = capture(model, vitc.load_target("cpu"), IMAGES[:2])
    program = run_pipeline(program, parse_pipeline(f"{','.join(CANONICAL)},tile-attention"))
    return program.evolve(calibration=CalibrationStream(IMAGES, ((1, 8, 8),))) if calibrated else program


def _outputs(module: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return module(IMAGES)


def test_rounding_is_what_the_engine_does_and_its_derivative_is_straight_through() -> None:
    x = torch.tensor([0.1, -0.34, 0.99, 4.0], requires_grad=True)
    out = round_activation(x, torch.tensor(1 / 128).log())
    torch.testing.assert_close(out, fake_quantize(x, 127 / 128))
    out.sum().backward()
    assert x.grad.tolist() == [1.0, 1.0, 1.0, 0.0]
    weight = torch.randn(4, 8)
    torch.testing.assert_close(round_weight(weight), fake_quantize_weight(weight))


def test_the_step_s_derivative_is_lsq_s() -> None:
    x, log_step = torch.tensor([0.26, -0.9, 30.0, -40.0]), torch.tensor(0.125).log().requires_grad_()
    round_activation(x, log_step).sum().backward()
    inside = sum(round(v / 0.125) - v / 0.125 for v in (0.26, -0.9))
    assert float(log_step.grad) == pytest.approx(0.125 * (inside + 127 - 128) / (4 * 127) ** 0.5, rel=1e-3)


def test_the_student_computes_what_the_int8_graph_will(teacher: torch.nn.Module) -> None:
    student = FakeQuantized(_tiled(teacher), INT8)
    program = run_pipeline(student.program(), FULL)
    torch.testing.assert_close(_outputs(student.module), _outputs(program.module), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(_outputs(student.module), _outputs(teacher), atol=1e-4)


@pytest.mark.parametrize("learn_steps", [False, True])
def test_training_brings_int8_nearer_to_the_teacher(learn_steps: bool, teacher: torch.nn.Module) -> None:
    program = _tiled(teacher)
    ranges = INT8.with_ranges(program, INT8.sites(program)).findings.ranges
    narrow = {name: 0.3 * limit for name, limit in ranges.items()}
    student = FakeQuantized(program.calibrated(Findings(ranges=narrow)), INT8, learn_steps)
    before = _outputs(run_pipeline(student.program(), FULL).module)
    stages = (vitc.Features(epochs=10, rate=3e-3), vitc.Logits(epochs=20, rate=3e-3, soft=1.0))
    vitc.distill(student.module, teacher, IMAGES, stages=stages, config=vitc.DistillConfig(batch_size=16))
    trained = student.program()
    after = _outputs(run_pipeline(trained, FULL).module)
    torch.testing.assert_close(_outputs(student.module), after, rtol=1e-4, atol=1e-5)
    want = _outputs(teacher)
    assert (after - want).square().mean() < 0.5 * (before - want).square().mean()
    moved = any(abs(trained.findings.ranges[name] - limit) > 0.01 * limit for name, limit in narrow.items())
    assert moved == learn_steps


def test_ranges_must_be_known(teacher: torch.nn.Module) -> None:
    with pytest.raises(CalibrationError, match="INT8 needs ranges for .* pass calibration=images"):
        FakeQuantized(_tiled(teacher, calibrated=False), INT8)
