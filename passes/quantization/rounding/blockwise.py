"""AdaRound with block reconstruction (BRECQ, Li et al., arXiv 2102.05426): the weights of one of the user's blocks are
rounded together, so that the block's outputs stay what they are with exact weights.

Its inputs are as INT8 makes them; inside, activations are not rounded: a weight that moves by little makes some of them
round the other way, and what the weights do would drown in that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

from vitc.cost import block_of
from vitc.graph import module_path
from vitc.graph.nodes import operand
from vitc.graph.program import Program
from vitc.passes.quantization.gemms import QuantizedGemm, corrected_bias
from vitc.passes.quantization.rounding.adaround import SoftRounding
from vitc.passes.quantization.rounding.rounding_sample import RoundingSample
from vitc.passes.quantization.rounding.unrounded import Unrounded
from vitc.passes.quantization.rounding.walk import Walk
from vitc.passes.quantization.scales import quantize_weight

#: Steps a block, the share of them before weights are driven to integers, and how that drive grows (the paper's).
_STEPS, _WARM_UP, _BETAS = 600, 0.2, (20.0, 2.0)
#: Adam's rate, and the weight of the regulariser; the error is 1 where all round to the nearest.
_RATE, _DRIVE = 0.02, 10.0


@dataclass(frozen=True)
class Block:
    """A stretch of the quantized graph from its first weight on, and its outputs, each with its twin in the
    floating-point graph if it has one there."""

    name: str
    gemms: list[QuantizedGemm]
    nodes: list[Node]
    outputs: dict[Node, Node | None]


def round_by_adaround(
    program: Program, quantized: Program, gemms: Sequence[QuantizedGemm], seed: int
) -> tuple[dict[str, Tensor], list[str]]:
    """Each linear's integers minus the nearest ones, int8 [O, C] by name, and a line for each block. Changes
    `quantized`, in which the gemms stand in the graph's order."""
    sample = RoundingSample(program, seed)
    kept = sample.keeper(quantized, "adaround")
    blocks = list(_blocks(program.graph, quantized.graph, gemms))
    gains = sample.token_gains([twin for block in blocks for twin in block.outputs.values() if twin])
    walk = Walk(quantized.module, sample.batches)
    generator = torch.Generator().manual_seed(seed)
    lines = []
    for i, block in enumerate(blocks):
        start = walk.advance(block.gemms[0].data)
        weights = {n: gains[twin.name] for n, twin in block.outputs.items() if twin}
        found = kept(f"{i} {block.name}", partial(_round, sample, quantized, block, start, weights, generator))
        generator.set_state(found["generator"])
        for gemm in block.gemms:
            gemm.round(quantized.module, found[gemm.name])
        error, count = float(found["error"]), len(block.gemms)
        how = f"{count} linears rounded by AdaRound, error ×{error:.2f}" if error < 1 else "rounded to the nearest"
        lines.append(f"{block.name}: {how}")
    return {g.name: g.integers(quantized.module) - quantize_weight(g.weight)[0] for g in gemms}, lines


def _round(
    sample: RoundingSample,
    quantized: Program,
    block: Block,
    start: Sequence[Mapping[Node, Any]],
    gains: Mapping[Node, list[Tensor]],
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Each linear's integers, int8 [O, C] by name, the 'error' as a share of that of the nearest ones, which stay where
    AdaRound finds none better, and the 'generator' as it is left."""
    fitting = _Fitting(quantized, block, start, gains)
    before = fitting.error(sample.judges)
    fitting.fit(sample.finders, generator)
    after = fitting.error(sample.judges)
    better = after < before
    integers = {g.name: g.integers(quantized.module) if better else quantize_weight(g.weight)[0] for g in block.gemms}
    error = torch.tensor(after / before if better else 1.0, dtype=torch.float64)
    return {**integers, "error": error, "generator": generator.get_state()}


def _blocks(exact: Graph, quantized: Graph, gemms: Sequence[QuantizedGemm]) -> Iterator[Block]:
    """The blocks in the order of the graph. A block that stands in pieces is as many blocks."""
    nodes = list(quantized.nodes)
    order = {n: i for i, n in enumerate(nodes)}
    twins = {n.name: n for n in exact.nodes}
    named = {g.node: twins[g.name] for g in gemms}
    homes: list[tuple[str, list[QuantizedGemm]]] = []
    for gemm in gemms:
        home = block_of(module_path(gemm.node))
        if not homes or homes[-1][0] != home:
            homes.append((home, []))
        homes[-1][1].append(gemm)
    starts = [order[group[0].data] for _, group in homes] + [len(nodes) - 1]
    for (home, group), start, bound in zip(homes, starts, starts[1:]):  # noqa: B905  one shorter
        stop = 1 + max(
            i for i in range(start, bound) if nodes[i].op == "call_function" and block_of(module_path(nodes[i])) == home
        )
        inside = nodes[start:stop]
        read = [n for n in inside if n.op == "call_function" and any(order[u] >= stop for u in n.users)]
        yield Block(home, group, inside, {n: named.get(n) or twins.get(n.name) for n in read})


class _Fitting:
    """The integers of one block's weights, fitted to its outputs with exact weights. `gains`: of an output's tokens;
    those of an output without any count alike."""

    def __init__(
        self,
        program: Program,
        block: Block,
        start: Sequence[Mapping[Node, Any]],
        gains: Mapping[Node, list[Tensor]],
    ) -> None:
        self.module, self.block, self.start, self.gains = program.module, block, list(start), gains
        self._runner = Unrounded(program.module)
        exact = self._instead({g.name: g.weight.float() / g.steps(self.module)[:, None] for g in block.gemms})
        with torch.no_grad():
            runs = [self._runner.stretch(block.nodes, values, exact) for values in self.start]
        self._wanted = [{n: values[n] for n in block.outputs} for values in runs]
        self._soft = {g.name: SoftRounding(g.weight, g.steps(program.module)) for g in block.gemms}

    def error(self, images: Sequence[Tensor]) -> float:
        """Of the integers that the graph has, on some of the images (bool [images] a batch)."""
        with torch.no_grad():
            return sum(float(self._error(i, {}, chosen)) for i, chosen in enumerate(images))

    def fit(self, images: Sequence[Tensor], generator: torch.Generator) -> None:
        """Finds integers and puts them in the graph."""
        usable = [i for i, chosen in enumerate(images) if bool(chosen.any())]
        unit = self.error(images) / len(usable) or 1.0
        variables = [soft.variable for soft in self._soft.values()]
        optimizer = torch.optim.Adam(variables, lr=_RATE)
        for step in range(_STEPS):
            i = usable[int(torch.randint(len(usable), (), generator=generator))]
            with torch.enable_grad():
                loss = (
                    self._error(i, self._instead({name: s.soft() for name, s in self._soft.items()}), images[i]) / unit
                )
                done = (step / _STEPS - _WARM_UP) / (1 - _WARM_UP)
                if done > 0:
                    beta = _BETAS[0] + (_BETAS[1] - _BETAS[0]) * done
                    loss = loss + _DRIVE * sum(soft.undecided(beta) for soft in self._soft.values())
                gradients = torch.autograd.grad(loss, variables)
            for variable, gradient in zip(variables, gradients, strict=True):
                variable.grad = gradient
            optimizer.step()
        for gemm in self.block.gemms:
            gemm.round(self.module, self._soft[gemm.name].integers())

    def _instead(self, weights: Mapping[str, Tensor]) -> dict[Node, Tensor]:
        """Weights in steps, by the gemm's name, and the biases that belong to them, in the places of the graph's
        own."""
        found = {}
        for gemm in self.block.gemms:
            found[gemm.data] = weights[gemm.name]
            if gemm.mean is not None:
                dequantized = weights[gemm.name] * gemm.steps(self.module)[:, None]
                found[operand(gemm.node, 2)] = corrected_bias(gemm.weight, dequantized, gemm.bias, gemm.mean)
        return found

    def _error(self, batch: int, instead: Mapping[Node, Tensor], chosen: Tensor) -> Tensor:
        """Σ g ‖y − ŷ‖² over the chosen images' tokens."""
        values = self._runner.stretch(self.block.nodes, self.start[batch], instead)
        total = torch.zeros(())
        for node, want in self._wanted[batch].items():
            error = (values[node] - want).float().square().reshape(len(chosen), -1, want.shape[-1]).sum(-1)
            if node in self.gains:
                error = error * self.gains[node][batch]
            total = total + error[chosen].sum()
        return total
