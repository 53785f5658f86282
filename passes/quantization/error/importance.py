"""The images on which it is measured how much an error in a tensor matters at the model's outputs
(output_gradients.py)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.fx import Node

from vitc.graph.program import Program
from vitc.passes.output_gradients import images_at_a_time, output_gradients, tokens_of
from vitc.passes.quantization.observe.statistics import ImageSample

#: Tokens' worth of images kept of the stream for this, and at least and at most so many images.
_TOKENS, _LEAST, _MOST = 1024, 4, 32


class ProbeImages:
    """A few images of the calibration stream, kept as it runs by: `total` tokens' worth of them, and at most so
    many."""

    def __init__(self, program: Program, seed: int, total: int = _TOKENS, most: int = _MOST) -> None:
        self.program, self.seed = program, seed
        self.chunk = images_at_a_time(program)
        images = max(min(max(total // tokens_of(program), _LEAST), most), self.chunk)
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
        for start in range(
            0, count if self.program.batch is not None else count // self.chunk * self.chunk, self.chunk
        ):
            yield tuple(t[start : start + self.chunk] for t in images)
