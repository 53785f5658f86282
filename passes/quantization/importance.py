"""The images on which it is measured how much an error in a tensor matters at the model's outputs (output_gradients.py)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.fx import Node

from vitc.graph.movement import example_shape
from vitc.passes.output_gradients import output_gradients
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
            yield inputs[0].shape[0], output_gradients(self.program.module, inputs, nodes, generator)

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
