"""A GEMM in INT8: its integers, and the bias that takes their mean error away."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from vitc.graph import constant
from vitc.graph.nodes import operand


def corrected_bias(weight: Tensor, dequantized: Tensor, bias: Tensor | None, mean: Tensor) -> Tensor:
    """bias − (Ŵ − W) · E[x], [O] (Nagel et al., Data-Free Quantization, arXiv 1906.04721, section 4.2)."""
    error = ((dequantized - weight.float()) @ mean).to(weight.dtype)
    return (torch.zeros_like(error) if bias is None else bias) - error


@dataclass(frozen=True)
class QuantizedGemm:
    """A GEMM in a quantized graph, with the weight and bias it had there in floating point.

    name:   of the node that it replaced.
    node:   the GEMM.
    weight: [out, in], or a convolution's.
    bias:   [out]; None without one.
    mean:   [in], of its input, if the bias takes the weights' mean error away; else None.
    """

    name: str
    node: Node
    weight: Tensor
    bias: Tensor | None
    mean: Tensor | None

    @property
    def data(self) -> Node:
        """The integers' node."""
        return operand(operand(self.node, 1))

    def integers(self, module: GraphModule) -> Tensor:
        """int8 [O, C]."""
        return constant(module, self.data)

    def steps(self, module: GraphModule) -> Tensor:
        """[O]."""
        return constant(module, operand(operand(self.node, 1), 1))

    def round(self, module: GraphModule, integers: Tensor) -> None:
        """Other integers in the same place, with the bias that belongs to them."""
        self.integers(module).copy_(integers)
        if self.mean is not None:
            dequantized = integers * self.steps(module)[:, None]
            bias = corrected_bias(self.weight, dequantized, self.bias, self.mean)
            constant(module, operand(self.node, 2)).copy_(bias)
