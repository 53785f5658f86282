"""What the layers read that read features: the covariance of their inputs, and how much the model's outputs move with
theirs.

Tokens do not count alike: behind the last attention only the class token is read by a head. So each token's row counts
by the squared gradient that arrives at the layer's output there, half of it; the other half is the same for all,
because one backward run an image with random signs is a noisy measure of that gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.fx import Node

from vitc.graph.movement import example_shape
from vitc.graph.nodes import operand
from vitc.graph.program import Program
from vitc.passes.output_gradients import images_at_a_time, output_gradients
from vitc.passes.pruning.find.flow import Flow
from vitc.passes.pruning.find.layers import CONVOLUTIONS, channel_dim

aten = torch.ops.aten


@dataclass
class Reader:
    """Sums over what a layer reads and makes; rows and their products only if it is a matrix (reads_rows).

    is_matrix: its inputs are the rows of a matrix product.
    gradients: [out], squared gradients at its outputs.
    total:     [in], weighted rows.
    products:  [in, in], products of weighted rows.
    weight:    the sum of the rows' weights.
    images:    how many images were seen.
    """

    is_matrix: bool
    gradients: torch.Tensor
    total: torch.Tensor
    products: torch.Tensor
    weight: float = 0.0
    images: int = 0

    @property
    def mean(self) -> torch.Tensor:
        """[in]."""
        return self.total / self.weight

    @property
    def covariance(self) -> torch.Tensor:
        """[in, in]."""
        return self.products / self.weight - torch.outer(self.mean, self.mean)

    @property
    def gain(self) -> torch.Tensor:
        """[out]: what a squared error in each output channel, the same at all tokens of an image, adds to the squared
        error of the model's outputs."""
        return self.gradients / self.images

    def add(self, rows: torch.Tensor, gradient: torch.Tensor) -> None:
        """Some images: rows [images, T, in] and the gradients at the outputs [images, T, out]."""
        squares = gradient.square()
        self.gradients += squares.sum((0, 1))
        self.images += gradient.shape[0]
        if not self.is_matrix:
            return
        matters = squares.sum(2)
        mean = self.gradients.sum() / (self.images * matters.shape[1])  # of all rows until now
        weight = 1 + matters / mean.clamp(min=1e-30)
        weighted = rows * weight[..., None]
        self.weight += float(weight.sum())
        self.total += weighted.sum((0, 1))
        self.products.addmm_(weighted.flatten(0, 1).T, rows.flatten(0, 1))


def reads_rows(layer: Node) -> bool:
    """Whether a layer multiplies each place of its input by one matrix: a linear, or a convolution with a kernel of
    1."""
    if layer.target is aten.linear.default:
        return True
    return layer.target in CONVOLUTIONS and example_shape(operand(layer, 1))[1:] == (
        example_shape(operand(layer))[1],
        1,
        1,
    )


def observe_readers(program: Program, flow: Flow) -> dict[Node, Reader]:
    """The layers that read features; one run forward and backward over the program's samples."""
    readers = {n: _empty(n, not bool(flow.summed[flow.columns[n].clamp(0).long()].any())) for n in flow.columns}
    watched = list(dict.fromkeys([*readers, *(operand(n) for n in readers)]))
    generator = torch.Generator().manual_seed(0)
    assert program.samples is not None
    for inputs in program.samples.inputs():
        for chunk in zip(*(t.split(images_at_a_time(program)) for t in inputs), strict=True):
            found = output_gradients(program.module, chunk, watched, generator)
            for node, reader in readers.items():
                images = chunk[0].shape[0]
                reader.add(_rows(found[operand(node)][0], node, images), _rows(found[node][1], node, images))
    return readers


def _empty(layer: Node, whole: bool) -> Reader:
    """`whole`: each column of the layer's weight reads one feature."""
    is_matrix = reads_rows(layer) and whole
    width = example_shape(operand(layer))[channel_dim(layer)] if is_matrix else 0
    gradients = torch.zeros(example_shape(layer)[channel_dim(layer)])
    return Reader(is_matrix, gradients, torch.zeros(width), torch.zeros(width, width))


def _rows(value: torch.Tensor, layer: Node, images: int) -> torch.Tensor:
    """[images, T, channels] float32."""
    last = value.movedim(channel_dim(layer), -1)
    return last.float().reshape(images, -1, last.shape[-1])
