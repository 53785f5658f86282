"""quantize-int8: where Q/DQ goes, what the scales are, and each refusal."""

from __future__ import annotations

import attention_models as models
import pytest
import torch
from programs import TILED, captured, count, outputs, through
from torch import Tensor, nn

from vitc.calibration.stream import CalibrationStream
from vitc.errors import CalibrationError
from vitc.graph.program import Program
from vitc.passes.quantization.quantize_int8 import quantize_weight

aten, vit = torch.ops.aten, torch.ops.vitc
SHAPE = (models.TOKENS, models.WIDTH)


class Block(nn.Module):
    """Attention and MLP with residual adds, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = models.Packed()
        self.norm = nn.LayerNorm(models.WIDTH)
        self.up, self.down = nn.Linear(models.WIDTH, 32), nn.Linear(32, models.WIDTH)
        self.head = nn.Linear(models.WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        x = x + self.down(nn.functional.gelu(self.up(self.norm(x))))
        return self.head(x.mean(1))


def _images(seed: int = 5) -> Tensor:
    return torch.randn(8, *SHAPE, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def tiled() -> Program:
    torch.manual_seed(0)
    return through(captured(Block(), _images()[:2]), TILED)


def _quantized(program: Program, batches: object, text: str = "quantize-int8") -> Program:
    return through(program.evolve(calibration=CalibrationStream(batches, (SHAPE,))), text)


def test_numbers_scales_and_residuals(tiled: Program) -> None:
    program = _quantized(tiled, _images())
    cosine = torch.cosine_similarity(
        outputs(program, _images(6)).flatten(), outputs(tiled, _images(6)).flatten(), dim=0
    )
    assert cosine > 0.995
    assert count(program, vit.attention_int8.default) == 1
    for name, scale in program.module.state_dict().items():
        if name.endswith("_scale"):
            torch.testing.assert_close(scale.half().float(), scale, atol=0, rtol=0)
    for node in program.graph.nodes:
        if node.target is torch.ops.aten.add.Tensor:
            assert all(a.target is not vit.dequantize.default for a in node.args)


def test_the_head_and_what_is_skipped_stay_in_floating_point(tiled: Program) -> None:
    def dequantized(program: Program) -> list[str]:
        linears = [n for n in program.graph.nodes if n.target is torch.ops.aten.linear.default]
        return [str(n.args[1].args[0].target) for n in linears if n.args[1].target is vit.dequantize.default]

    assert not any("head" in name for name in dequantized(_quantized(tiled, _images())))
    kept = dequantized(_quantized(tiled, _images(), "quantize-int8{head=true,skip=[attention,up*]}"))
    assert [name.split(".")[0] for name in kept] == ["down", "head"]


def test_the_last_linear_of_a_model_without_a_head_is_no_head() -> None:
    model = Block()
    model.head = nn.Identity()
    program = _quantized(through(captured(model, _images()[:2]), TILED), _images())
    linears = program.graph.find_nodes(op="call_function", target=aten.linear.default)
    assert all(n.args[1].target is vit.dequantize.default for n in linears)


def test_ranges_replay_without_data(tiled: Program) -> None:
    once = _quantized(tiled, _images())
    again = through(tiled.calibrated(once.findings), "quantize-int8")
    torch.testing.assert_close(outputs(again), outputs(once), atol=0, rtol=0)


@pytest.mark.parametrize("calibrator", ["minmax", "percentile", "mse", "entropy"])
def test_every_calibrator_chooses_ranges_within_the_peak(tiled: Program, calibrator: str) -> None:
    program = _quantized(tiled, _images(), f"quantize-int8{{calibrator={calibrator}}}")
    peaks = _quantized(tiled, _images(), "quantize-int8{calibrator=minmax}").findings.ranges
    assert all(0 < value <= peaks[name] * (1 + 1e-6) for name, value in program.findings.ranges.items())


def test_weights_round_within_half_a_step_and_a_zero_channel_stays_zero() -> None:
    weight = torch.randn(4, 8)
    weight[2] = 0
    integers, steps = quantize_weight(weight)
    assert ((integers * steps[:, None] - weight).abs() <= steps[:, None] / 2 + 1e-7).all()
    assert not integers[2].any()


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "the calibration stream is empty"),
        (torch.ones(4, *SHAPE), "all 1 calibration batches hold the one value 1; pass real images"),
        ([torch.full((2, *SHAPE), torch.nan)], "batch 0 holds 160 NaN or inf of 160 values"),
        ([torch.full((2, *SHAPE), torch.inf)], "batch 0 holds 160 NaN or inf of 160 values"),
        (torch.randn(2, 3, 3), r"batch 0 has shape \[2, 3, 3\], the model takes \[batch, 5, 16\]"),
        (torch.zeros(2, *SHAPE, dtype=torch.uint8), "batch 0 has dtype torch.uint8; normalize the images"),
        (["a file name"], "batch 0 is a str, not a tensor or array"),
        ("folder", "calibration must be a tensor, an array or an iterable of batches, got str"),
        ([()], "batch 0 has 0 inputs, the model takes 1"),
    ],
    ids=["empty", "constant", "nan", "inf", "shape", "dtype", "type", "not iterable", "inputs"],
)
def test_refusals(tiled: Program, batches: object, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        _quantized(tiled, batches)


def test_no_data_and_no_ranges(tiled: Program) -> None:
    with pytest.raises(CalibrationError, match=r"INT8 needs ranges for \d+ tensors .* there is no calibration"):
        through(tiled, "quantize-int8")


def test_the_bias_takes_the_mean_error_of_the_tokens_that_the_head_reads() -> None:
    """A head that reads the first token only: the mean of the input counts that token, not its neighbours."""

    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(models.WIDTH, models.WIDTH), nn.Linear(models.WIDTH, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.first(x).relu()[:, 0])

    images = torch.rand(16, *SHAPE)
    images[:, 1:] += 3
    program = _quantized(through(captured(First(), images[:2]), TILED), images, "quantize-int8{calibrator=minmax}")
    (mean,) = program.findings.means.values()
    torch.testing.assert_close(mean, images[:, 0].mean(0), atol=0.2, rtol=0)
