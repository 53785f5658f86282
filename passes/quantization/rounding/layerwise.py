"""GPTQ through a graph: each linear is rounded on its inputs as INT8 makes them, the linears before it rounded
already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from vitc.graph import module_path
from vitc.graph.nodes import operand
from vitc.graph.program import Program
from vitc.passes.quantization.gemms import QuantizedGemm
from vitc.passes.quantization.rounding.gptq import gptq
from vitc.passes.quantization.rounding.rounding_sample import RoundingSample
from vitc.passes.quantization.rounding.walk import Walk
from vitc.passes.quantization.scales import quantize_weight


def round_by_gptq(
    program: Program, quantized: Program, gemms: Sequence[QuantizedGemm], seed: int
) -> tuple[dict[str, Tensor], list[str]]:
    """Each linear's integers minus the nearest ones, int8 [O, C] by name, and a line for each. Changes `quantized`, in
    which the gemms stand in the graph's order."""
    sample = RoundingSample(program, seed)
    kept = sample.keeper(quantized, "gptq")
    by_name = {n.name: n for n in program.graph.nodes}
    gains = sample.token_gains([by_name[g.name] for g in gemms])
    walk = Walk(quantized.module, sample.batches)
    offsets, lines = {}, []
    for gemm in gemms:
        start = walk.advance(gemm.data)
        found = kept(gemm.name, partial(_round, sample, gemm, start, gains[gemm.name]))
        offsets[gemm.name], better = found["offsets"], float(found["error"])
        if better < 1:
            gemm.round(quantized.module, quantize_weight(gemm.weight)[0] + offsets[gemm.name])
        home = module_path(gemm.node) or gemm.node.name
        lines.append(
            f"{home}: rounded by GPTQ, error ×{better:.2f}" if better < 1 else f"{home}: rounded to the nearest"
        )
    return offsets, lines


def _round(
    sample: RoundingSample, gemm: QuantizedGemm, start: Sequence[Mapping[Node, Any]], gains: Sequence[Tensor]
) -> dict[str, Tensor]:
    """'offsets' int8 [O, C] from the nearest integers, and the 'error' as a share of theirs; both of the nearest ones
    where GPTQ's are no better."""
    fit, judge = _moments(sample, [values[operand(gemm.node)] for values in start], gains, gemm.mean)
    nearest, steps = quantize_weight(gemm.weight)
    rounded = gptq(gemm.weight, steps, fit)
    before, after = (_error(gemm.weight, q, steps, judge) for q in (nearest, rounded))
    if after < before:
        return {"offsets": rounded - nearest, "error": torch.tensor(after / before, dtype=torch.float64)}
    return {"offsets": torch.zeros_like(nearest), "error": torch.ones((), dtype=torch.float64)}


def _moments(
    sample: RoundingSample, inputs: Sequence[Tensor], gains: Sequence[Tensor], mean: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Σ g (x − mean) (x − mean)ᵀ [C, C] over the tokens of the images that find the rounding, and of those that judge
    it: the bias takes the mean's error away."""
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
