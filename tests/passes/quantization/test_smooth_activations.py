"""smooth-activations: the function stays, the error of INT8 falls, and ranges leave room for images not seen."""

from __future__ import annotations

import attention_models as models
import pytest
import torch
from programs import TILED, captured, outputs, through
from torch import Tensor, nn

from vitc.calibration.stream import CalibrationStream
from vitc.demo.digits import DigitsViT
from vitc.errors import CalibrationError
from vitc.graph.program import Program
from vitc.passes.quantization.observe.statistics import ChannelStatistics
from vitc.passes.quantization.smoothing.channels import channel_readers

SHAPE = (1, 8, 8)
FULL = "smooth-activations,quantize-int8"


def _images(seed: int, count: int = 24) -> Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


def _tiled(model: nn.Module) -> Program:
    stream = CalibrationStream(_images(1), (SHAPE,))
    return through(captured(model, _images(0, 2)), TILED).evolve(calibration=stream)


@pytest.fixture(scope="module")
def model() -> DigitsViT:
    torch.manual_seed(0)
    return DigitsViT(dim=32, depth=2).eval()


def _sqnr(want: Tensor, got: Tensor) -> float:
    return float(10 * torch.log10(want.square().sum() / (want - got).square().sum()))


@torch.no_grad()
def _plant(model: DigitsViT) -> DigitsViT:
    """The same function with outlier channels: LayerNorm against linear, q against k, v against proj."""
    planted = DigitsViT(dim=32, depth=2)
    planted.load_state_dict(model.state_dict())
    generator = torch.Generator().manual_seed(0)
    for block in planted.blocks:
        for norm, linear in ((block.norm1, block.attn.qkv), (block.norm2, block.mlp[0])):
            factor = torch.where(torch.arange(32) % 16 == 3, 80.0, 1.0)
            norm.weight.mul_(factor), norm.bias.mul_(factor), linear.weight.div_(factor)
        factor = torch.exp(1.5 * torch.randn(32, generator=generator))
        q, k, v = (slice(32 * i, 32 * i + 32) for i in range(3))
        for rows, by in ((q, factor), (k, 1 / factor), (v, factor)):
            block.attn.qkv.weight[rows] *= by[:, None]
            block.attn.qkv.bias[rows] *= by
        block.attn.proj.weight.div_(factor)
    return planted.eval()


def test_the_function_stays(model: DigitsViT) -> None:
    program = through(_tiled(model), "smooth-activations")
    with torch.no_grad():
        torch.testing.assert_close(outputs(program, _images(2)), model(_images(2)), rtol=1e-4, atol=1e-5)
    found = program.findings
    assert len(found.smoothing) + len(found.score_smoothing) == 8  # of each block: two norms, v, and q against k


def test_planted_outliers_cost_nothing(model: DigitsViT) -> None:
    planted = _plant(model)
    with torch.no_grad():
        want = model(_images(2))
        torch.testing.assert_close(planted(_images(2)), want, rtol=1e-3, atol=1e-4)
    plain = _sqnr(
        want, outputs(through(_tiled(planted), "quantize-int8{calibrator=minmax,correct_bias=false}"), _images(2))
    )
    smooth = _sqnr(want, outputs(through(_tiled(planted), FULL), _images(2)))
    untouched = _sqnr(want, outputs(through(_tiled(model), FULL), _images(2)))
    assert plain < 12
    assert smooth > untouched - 3


def test_factors_replay_without_data(model: DigitsViT) -> None:
    once = through(_tiled(model), FULL)
    again = through(_tiled(model).evolve(calibration=None).calibrated(once.findings), FULL)
    torch.testing.assert_close(outputs(again), outputs(once), atol=0, rtol=0)
    with pytest.raises(
        CalibrationError, match="smooth-activations needs calibration data for 8 sites and there is none"
    ):
        through(_tiled(model).evolve(calibration=None), FULL)


def test_the_same_seed_gives_the_same_numbers(model: DigitsViT) -> None:
    first, second = (through(_tiled(model), FULL) for _ in range(2))
    assert first.findings.ranges == second.findings.ranges


def test_bias_correction_removes_the_mean_error() -> None:
    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(16, 16, bias=False), nn.Linear(16, 16)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x).relu())

    shape = (models.TOKENS, 16)
    images = torch.rand(64, *shape) + 1
    program = through(captured(Linear(), images[:2]), TILED).evolve(calibration=CalibrationStream(images, (shape,)))
    errors = []
    for option in ("false", "true"):
        quantized = through(program, f"quantize-int8{{correct_bias={option}}}")
        assert quantized.journal[-1].notes[-1].startswith("1 GEMMs")
        errors.append((outputs(quantized, images) - outputs(program, images)).mean((0, 1)).norm())
    assert errors[1] < errors[0] / 3


def test_who_reads_the_channels() -> None:
    class Moved(nn.Module):
        def __init__(self, mixed: bool) -> None:
            super().__init__()
            self.norm, self.linear, self.mixed = nn.LayerNorm(16), nn.Linear(16, 4), mixed

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(x).view(x.shape[0], 2, 2, 16).roll(1, 1).transpose(1, 2).reshape(x.shape[0], 4, 16)
            return self.linear(y.transpose(1, 2).reshape(x.shape[0], 4, 16) if self.mixed else y)

    for mixed in (False, True):
        program = captured(Moved(mixed), torch.randn(2, 4, 16))
        (norm,) = program.graph.find_nodes(op="call_function", target=torch.ops.aten.layer_norm.default)
        readers = channel_readers(norm)
        assert readers is None if mixed else [n.target for n in readers or []] == [torch.ops.aten.linear.default]


def test_unseen_clipping_is_what_new_images_lose() -> None:
    """Against a simulation: exponential tails, 40 images seen, 20,000 not seen."""
    generator = torch.Generator().manual_seed(3)
    seen, new = (torch.empty(n, 1, 256).exponential_(generator=generator) for n in (40, 20000))
    statistics = ChannelStatistics()
    statistics.update(seen, 40)
    limit = 6.0
    lost = (new - torch.maximum(statistics.highs[0], torch.tensor(limit))).clamp_min(0).square().sum() / 20000
    low_side_too = statistics.unseen_clipping(limit, torch.ones(256))
    assert 0.3 < low_side_too / float(lost) < 3


def test_an_image_seen_twice_tells_no_more_of_others_than_once() -> None:
    image = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(0))
    once, twice = ChannelStatistics(), ChannelStatistics()
    once.update(image, 1)
    twice.update(image.repeat(2, 1, 1), 2)
    assert twice.unseen_clipping(1.0, torch.ones(8)) == pytest.approx(once.unseen_clipping(1.0, torch.ones(8)) * 2 / 3)


class TwoLayerHead(nn.Module):
    """A head of two linears on the first token, beside one on the second, added."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.norm = models.Packed(), nn.LayerNorm(models.WIDTH)
        self.hidden, self.out, self.other = nn.Linear(models.WIDTH, 32), nn.Linear(32, 4), nn.Linear(models.WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x + self.attention(x))
        return self.out(self.hidden(x[:, 0]).relu()) + self.other(x[:, 1])


def test_a_reader_of_one_token_leaves_the_norm_as_it_is() -> None:
    images = torch.randn(8, models.TOKENS, models.WIDTH)
    program = through(captured(TwoLayerHead(), images[:2]), TILED)
    stream = CalibrationStream(images, (tuple(images.shape[1:]),))
    after = through(program.evolve(calibration=stream), FULL)
    assert not [name for name in after.findings.smoothing if name.startswith("layer_norm")]
    assert _sqnr(outputs(program, images), outputs(after, images)) > 20
