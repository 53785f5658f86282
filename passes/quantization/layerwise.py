"""GPTQ through a graph: each linear is rounded on its inputs as INT8 makes them, the linears before it rounded already."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vitc.graph import module_path
from vitc.passes.quantization.gemms import QuantisedGemm
from vitc.passes.quantization.gptq import gptq
from vitc.passes.quantization.rounding_sample import RoundingSample
from vitc.passes.quantization.scales import quantise_weight
from vitc.passes.quantization.walk import Walk
from vitc.program import Program


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
        home = module_path(gemm.node) or gemm.node.name
        lines.append(f"{home}: rounded by GPTQ, error ×{after / before:.2f}" if kept else f"{home}: rounded to the nearest")
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
    for x, g, finders, judges in zip(rows, gains, sample.finders, sample.judges, strict=True):
        weighted = (x - centre) * g.sqrt()[..., None]
        for moment, chosen in ((fit, finders), (judge, judges)):
            part = weighted[chosen].flatten(0, 1)
            moment += (part.T @ part).double()
    return fit, judge


def _error(weight: Tensor, integers: Tensor, steps: Tensor, moment: Tensor) -> float:
    """Σ g ‖(Ŵ − W) x‖²."""
    error = (integers * steps[:, None] - weight.float()).double()
    return float((error @ moment * error).sum())
