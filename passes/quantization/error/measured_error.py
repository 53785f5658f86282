"""What rounding a tensor or a weight does to the model's outputs, from a sample of real values and gradients.

To first order an error Δx moves the outputs y by ∂y/∂x · Δx. Rounding errors are independent of each other, so the
squares add up: Σ Δx² · (∂y/∂x)² over all tokens, and Σ ΔW² · (∂y/∂W)² for a weight, whose derivative is summed over an
image's tokens *before* it is squared: a weight's error is the same at all tokens and does not average out. Bias
correction takes the mean of that part away, so the GEMM's input is centred there. All errors here are per image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor
from torch.fx import Node

from vitc.calibration.observer import Observer
from vitc.graph import constant
from vitc.graph.nodes import operand
from vitc.passes.quantization.error.importance import ProbeImages
from vitc.passes.quantization.observe.histogram import MagnitudeHistogram
from vitc.passes.quantization.observe.statistics import ChannelStatistics, Third
from vitc.passes.quantization.scales import fake_quantize

#: Rows of a tensor for each probe image, and output channels of a weight: a random choice estimates the whole.
_ROWS, _CHANNELS = 48, 256
#: Clipped values come together (many tokens of one image, one side), so their errors do not average out as rounding
#: does: about three times as bad, by benchmarks/int8_error_model.py.
_TOGETHER = 3.0


@dataclass(frozen=True)
class TensorProbe:
    """A sample of one tensor's rows, and what an error in them does to the model's outputs.

    rows:          [R, C], the sampled rows.
    shares:        [R], how many of an image's rows each stands for.
    gains:         [R, C], what a squared error there adds to the outputs' squared error, for all the rows it stands
                   for.
    channel_gains: [C], the same for one value of a channel, on average.
    mean:          [C], the mean row, each row counted by how much it matters.
    channels:      what the whole stream says about the range of each channel.
    """

    rows: Tensor
    shares: Tensor
    gains: Tensor
    channel_gains: Tensor
    mean: Tensor
    channels: ChannelStatistics

    def rounding(self, limit: float) -> float:
        """The error of rounding with a range that clips nothing; it grows as the square of the limit."""
        return float(torch.dot((fake_quantize(self.rows, limit) - self.rows).square().flatten(), self.gains.flatten()))

    def unseen_clipping(self, limit: float) -> float:
        """The error of clipping images that calibration has not seen."""
        return _TOGETHER * self.channels.unseen_clipping(limit, self.channel_gains)

    def error(self, limit: float, histogram: MagnitudeHistogram) -> float:
        """With any range. Few rows do not show what the whole stream loses by clipping: its histogram does."""
        clipped = self.rows.clamp(-limit, limit)
        excess = (clipped - self.rows).square()
        rounding = torch.dot((fake_quantize(clipped, limit) - clipped).square().flatten(), self.gains.flatten())
        clipping, amount = float(torch.dot(excess.flatten(), self.gains.flatten())), float(self.shares @ excess.sum(1))
        gain = clipping / amount if amount else float(self.channel_gains.mean())
        lost = max(clipping, gain * histogram.clipped(limit) / self.channels.images)
        return float(rounding) + lost + self.unseen_clipping(limit)

    def smoothed(self, shift: Tensor, scale: Tensor) -> TensorProbe:
        """That of (x − shift) / scale."""
        gains = scale.square()
        rows, channels = (self.rows - shift) / scale, self.channels.smoothed(shift, scale)
        mean = (self.mean - shift) / scale
        return TensorProbe(rows, self.shares, self.gains * gains, self.channel_gains * gains, mean, channels)


@dataclass(frozen=True)
class WeightProbe:
    """Some rows of the weights that read a tensor [O, C], and what a squared error there adds to the outputs'."""

    weight: Tensor
    gains: Tensor

    def error(self, weight: Tensor) -> float:
        """For `weight` in the place of the exact one."""
        return float(((weight - self.weight).square() * self.gains).sum())


class _TensorSample:
    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator
        self.rows: list[Tensor] = []
        self.shares: list[Tensor] = []
        self.gains: list[Tensor] = []
        self.total, self.sum, self.weight = (torch.zeros(()) for _ in range(3))
        self.count = 0

    def add(self, rows: Tensor, gradient: Tensor) -> None:
        """One image's rows and the gradient there, both [T, C]; rows are drawn in proportion to how much they
        matter."""
        gains = gradient.square()
        matters = gains.sum(1) + 1e-30
        chosen = torch.multinomial(matters, _ROWS, replacement=True, generator=self.generator)
        self.rows.append(rows[chosen])
        self.shares.append(matters.sum() / (_ROWS * matters[chosen]))
        self.gains.append(gains[chosen] * self.shares[-1][:, None])
        self.total = self.total + gains.sum(0)
        self.sum, self.weight = self.sum + matters @ rows, self.weight + matters.sum()
        self.count += rows.shape[0]

    def probe(self, channels: ChannelStatistics) -> TensorProbe:
        gains, shares = torch.cat(self.gains) / len(self.gains), torch.cat(self.shares) / len(self.gains)
        mean = self.sum / self.weight
        return TensorProbe(torch.cat(self.rows), shares, gains, self.total / self.count, mean, channels)


class _WeightSample:
    def __init__(self, weight: Tensor, mean: Tensor, generator: torch.Generator) -> None:
        self.mean = mean
        self.chosen = torch.randperm(weight.shape[0], generator=generator)[:_CHANNELS].sort().values
        self.share = len(self.chosen) / weight.shape[0]
        self.weight = weight[self.chosen]
        self.gains = torch.zeros_like(self.weight)
        self.images = 0

    def add(self, rows: Tensor, gradient: Tensor) -> None:
        """One image's rows [T, C] and the gradient at the GEMMs' outputs [T, O]."""
        self.gains += (gradient[:, self.chosen].T @ (rows - self.mean)).square()
        self.images += 1

    def probe(self) -> WeightProbe:
        return WeightProbe(self.weight, self.gains / (self.share * self.images))


@dataclass(frozen=True)
class Part:
    """A tensor: a node's value, or a third of its last dimension (q, k or v of a packed one)."""

    node: Node
    third: int | None = None

    def of(self, value: Tensor) -> Tensor:
        return value if self.third is None else value.chunk(3, -1)[self.third]

    def watched(self, *observers: Observer) -> list[tuple[Node, Observer]]:
        return [(self.node, o if self.third is None else Third(self.third, o)) for o in observers]


def probe(
    images: ProbeImages,
    tensors: Mapping[str, Part],
    channels: Mapping[str, ChannelStatistics],
    readers: Mapping[str, Sequence[Node]] = MappingProxyType({}),
) -> tuple[dict[str, TensorProbe], dict[str, WeightProbe]]:
    """One backward run over the images: a probe of each tensor, and of the weights of the linears that read it, for
    those named in `readers`."""
    generator = torch.Generator().manual_seed(images.seed)
    samples = {name: _TensorSample(generator) for name in tensors}
    weights = {}
    for name, linears in readers.items():
        weight = torch.cat([constant(images.program.module, operand(n, 1)).float() for n in linears])
        weights[name] = _WeightSample(weight, channels[name].mean, generator)
    nodes = [part.node for part in tensors.values()] + [n for linears in readers.values() for n in linears]
    for count, found in images.gradients(list(dict.fromkeys(nodes))):
        for name, part in tensors.items():
            value, gradient = (_by_image(part.of(t), count) for t in found[part.node])
            outputs = [found[n][1] for n in readers.get(name, ())]
            for i in range(count):
                samples[name].add(value[i], gradient[i])
                if outputs:
                    weights[name].add(value[i], torch.cat([_by_image(t, count)[i] for t in outputs], dim=1))
    return {n: s.probe(channels[n]) for n, s in samples.items()}, {n: s.probe() for n, s in weights.items()}


def _by_image(value: Tensor, images: int) -> Tensor:
    """[images, T, C] float32."""
    return value.float().reshape(images, -1, value.shape[-1])
