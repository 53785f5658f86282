"""fold-layer-scale: a learned factor a channel behind a linear (LayerScale, Touvron et al., arXiv 2103.17239) goes into
it.

(x·Wᵀ + b)·γ = x·(γW)ᵀ + γb: exact, one elementwise pass over the residual branch less, and per-channel INT8 weights
take the factor for free.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.fx import Node

from vitc.graph import Rewriter, constant, shape_of
from vitc.graph.nodes import is_constant, is_tensor, same_shape, sole_user
from vitc.graph.program import Program
from vitc.pipeline import Pass, register_pass

aten = torch.ops.aten


@register_pass
@dataclass(frozen=True)
class FoldLayerScale(Pass):
    """Folds a learned factor γ into the linear before it: one number for each output feature, or one for all."""

    name = "fold-layer-scale"
    after = ("drop-noops",)

    def run(self, program: Program) -> Program:
        rewriter = Rewriter(program.module, self.name)
        for node in list(program.graph.nodes):
            if node.target is aten.mul.Tensor:
                _fold(rewriter, node)
        rewriter.finish()
        return program


def _fold(rewriter: Rewriter, mul: Node) -> None:
    if not all(is_tensor(a) for a in mul.args):
        return
    left, right = mul.all_input_nodes[0], mul.all_input_nodes[-1]
    linear, gamma = (left, right) if is_constant(right) else (right, left)
    if linear.target is not aten.linear.default or sole_user(linear) is not mul or not is_constant(gamma):
        return
    weights = linear.all_input_nodes[1:]
    if not all(map(is_constant, weights)):
        return
    factor = constant(rewriter.module, gamma).flatten()
    if len(factor) not in (1, shape_of(linear)[-1]) or shape_of(gamma)[-1:] not in ((), (len(factor),)):
        return
    if not same_shape(shape_of(mul), shape_of(linear)):
        return
    with rewriter.at(linear):
        operands = []
        for operand in weights:
            value = constant(rewriter.module, operand)
            scaled = value * factor.reshape([-1] + [1] * (value.ndim - 1))
            operands.append(rewriter.parameter(rewriter.unique_name(f"{operand.target}_scaled"), scaled))
        new = rewriter.call(aten.linear.default, linear.args[0], *operands)
    rewriter.replace(mul, new)
