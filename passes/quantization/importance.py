"""How much an error in a tensor matters at the model's outputs.

For outputs y and random signs r, E[(∂(r·y)/∂o)²] = Σ (∂y/∂o)²: one backward run tells, for every element of a
GEMM's output o, by how much the squared error of the outputs grows with the squared error there (Hutchinson's
estimator; the diagonal of the Gauss–Newton matrix, with which PTQ4ViT, arXiv 2111.12293, weighs errors too). Without
it the class token, one row of many and all that a classifier reads, would count like any patch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.utils._pytree import tree_leaves

from vitc.graph.movement import example_shape
from vitc.passes.quantization.observe import FastInterpreter
from vitc.passes.quantization.statistics import ImageSample
from vitc.program import Program

#: Tokens' worth of images kept of the stream for this, at least and at most so many images, and tokens run at a time.
_TOKENS, _LEAST, _MOST, _CHUNK = 1024, 4, 32, 512


class ProbeImages:
    """A few images of the calibration stream, kept as it runs by: `total` tokens' worth of them, and at most so many."""

    def __init__(self, program: Program, seed: int, total: int = _TOKENS, most: int = _MOST) -> None:
        self.program, self.seed = program, seed
        tokens = _tokens(program)
        self.chunk = max(1, _CHUNK // tokens) if program.batch is not None else program.example_inputs[0].shape[0]
        images = max(min(max(total // tokens, _LEAST), most), self.chunk)
        self._inputs = [n for n in program.graph.nodes if n.op == "placeholder"]
        self._samples = [ImageSample(images, seed) for _ in self._inputs]

    @property
    def seen(self) -> int:
        """How many images the stream had."""
        return self._samples[0].seen

    def observers(self) -> list[tuple[Node, ImageSample]]:
        return list(zip(self._inputs, self._samples, strict=True))

    def gradients(self, nodes: list[Node]) -> Iterator[tuple[int, dict[Node, tuple[Tensor, Tensor]]]]:
        """For each chunk: how many images it has, and (value, gradient) of each node; a node without influence
        has zeros."""
        generator = torch.Generator().manual_seed(self.seed)
        for inputs in self.batches():
            yield inputs[0].shape[0], _gradients(self.program.module, inputs, nodes, generator)

    def batches(self) -> Iterator[tuple[Tensor, ...]]:
        """The images that were kept, some at a time."""
        images = [sample.images for sample in self._samples]
        count = images[0].shape[0]
        # A fixed batch takes whole chunks only; the stream has at least one.
        for start in range(0, count if self.program.batch is not None else count // self.chunk * self.chunk, self.chunk):
            yield tuple(t[start : start + self.chunk] for t in images)


def _tokens(program: Program) -> int:
    """Rows an image has in the largest GEMM."""
    linears = program.graph.find_nodes(op="call_function", target=torch.ops.aten.linear.default)
    batch = program.example_inputs[0].shape[0]
    return max([math.prod(example_shape(n)[:-1]) // batch for n in linears], default=1) or 1


def _gradients(
    module: GraphModule, inputs: Sequence[Tensor], nodes: list[Node], generator: torch.Generator
) -> dict[Node, tuple[Tensor, Tensor]]:
    runner = _Keeping(module, set(nodes))
    with torch.enable_grad():
        leaves = [t.clone().requires_grad_(t.is_floating_point()) for t in inputs]
        outputs = [t for t in tree_leaves(runner.run(*leaves, enable_io_processing=False)) if isinstance(t, Tensor)]
        loss = sum((_signs(t, generator) * t).sum() for t in outputs if t.is_floating_point())
        kept = [runner.kept[n] for n in nodes]
        wanted = [t for t in kept if t.requires_grad]
        found = iter(torch.autograd.grad(loss, wanted, allow_unused=True))  # type: ignore[arg-type]
    result = {}
    for node, value in zip(nodes, kept, strict=True):
        gradient = next(found) if value.requires_grad else None
        result[node] = (value.detach(), torch.zeros_like(value) if gradient is None else gradient)
    return result


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, like.shape, generator=generator).to(like.dtype) * 2 - 1


class _Keeping(FastInterpreter):
    def __init__(self, module: GraphModule, wanted: set[Node]) -> None:
        super().__init__(module)
        self.wanted = wanted
        self.kept: dict[Node, Tensor] = {}

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        if n in self.wanted:
            self.kept[n] = result
        return result
