"""Which integers a weight gets, chosen on the layer's inputs as they are in INT8: the linears before it have theirs.

The images are a bounded sample of the calibration stream. Three of four find the rounding, the others say whether it is
kept. Tokens count by how much an error there moves the model's outputs (importance.py): without that the class token,
which is all that a head reads, would count like any patch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.fx import Node

from vitc.graph import module_path
from vitc.passes.quantization.gemms import QuantisedGemm
from vitc.passes.quantization.gptq import gptq
from vitc.passes.quantization.importance import ProbeImages
from vitc.passes.quantization.observe import observe
from vitc.passes.quantization.scales import quantise_weight
from vitc.passes.quantization.walk import Walk
from vitc.program import Program

#: Tokens' worth of images that the moments are taken from, and images at most.
_TOKENS, _MOST = 16384, 1024
#: Every fourth image judges.
_HELD_OUT = 4


class RoundingSample:
    """Images of the calibration stream in batches, and which of them judge (bool [images] a batch)."""

    def __init__(self, program: Program, seed: int) -> None:
        self.images = ProbeImages(program, seed, _TOKENS, _MOST)
        observe(program, self.images.observers())
        self.batches = list(self.images.batches())
        count = sum(batch[0].shape[0] for batch in self.batches)
        judges = torch.arange(count) % _HELD_OUT == _HELD_OUT - 1
        self.judges = list(judges.split([batch[0].shape[0] for batch in self.batches]))
        #: With too few images the same ones find and judge.
        self.divided = bool(judges.any())

    def token_gains(self, nodes: Sequence[Node]) -> dict[str, list[Tensor]]:
        """By node, what a squared error of a token adds to the outputs' squared error: [images, tokens] a batch, of mean 1.
        A node without influence on the outputs has ones."""
        found: dict[str, list[Tensor]] = {n.name: [] for n in nodes}
        for count, chunk in self.images.gradients(list(nodes)):
            for node in nodes:
                gradient = chunk[node][1].float()
                found[node.name].append(gradient.reshape(count, -1, gradient.shape[-1]).square().sum(-1))
        for name, gains in found.items():
            mean = float(torch.cat(gains).mean())
            found[name] = [g / mean if mean > 0 else torch.ones_like(g) for g in gains]
        return found


def round_by_gptq(
    program: Program, quantised: Program, gemms: Sequence[QuantisedGemm], seed: int
) -> tuple[dict[str, Tensor], list[str]]:
    """Each linear's integers minus the nearest ones, int8 [O, C] by name, and a line for each. Changes `quantised`, in
    which the gemms stand in the graph's order."""
    sample = RoundingSample(program, seed)
    by_name = {n.name: n for n in program.graph.nodes}
    gains = sample.token_gains([by_name[g.name] for g in gemms])
    walk = Walk(quantised.module, sample.batches)
    offsets, lines = {}, []
    for gemm in gemms:
        inputs = [values[gemm.node.args[0]] for values in walk.advance(gemm.data)]  # type: ignore[index]
        fit, judge = _moments(sample, inputs, gains[gemm.name], gemm.mean)
        nearest, steps = quantise_weight(gemm.weight)
        rounded = gptq(gemm.weight, steps, fit)
        before, after = (_error(gemm.weight, q, steps, judge) for q in (nearest, rounded))
        kept = after < before
        if kept:
            gemm.round(quantised.module, rounded)
        offsets[gemm.name] = rounded - nearest if kept else torch.zeros_like(nearest)
        lines.append(_line(gemm, before, after, "GPTQ"))
    return offsets, lines


def _moments(
    sample: RoundingSample, inputs: Sequence[Tensor], gains: Sequence[Tensor], mean: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Σ g (x − mean) (x − mean)ᵀ [C, C] over the tokens of the images that find the rounding, and of those that judge it:
    the bias takes the mean's error away."""
    rows = [x.float().reshape(g.shape[0], g.shape[1], -1) for x, g in zip(inputs, gains, strict=True)]
    width = rows[0].shape[-1]
    centre = torch.zeros(width) if mean is None else mean
    fit, judge = (torch.zeros(width, width, dtype=torch.float64) for _ in range(2))
    for x, g, judges in zip(rows, gains, sample.judges, strict=True):
        weighted = (x - centre) * g.sqrt()[..., None]
        for moment, chosen in ((fit, ~judges if sample.divided else judges | True), (judge, judges)):
            part = weighted[chosen].flatten(0, 1)
            moment += (part.T @ part).double()
    return fit, judge if sample.divided else fit


def _error(weight: Tensor, integers: Tensor, steps: Tensor, moment: Tensor) -> float:
    """Σ g ‖(Ŵ − W) x‖²."""
    error = (integers * steps[:, None] - weight.float()).double()
    return float((error @ moment * error).sum())


def _line(gemm: QuantisedGemm, before: float, after: float, how: str) -> str:
    home = module_path(gemm.node) or gemm.node.name
    return f"{home}: rounded by {how}, error ×{after / before:.2f}" if after < before else f"{home}: rounded to the nearest"
