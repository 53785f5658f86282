"""fold-layer-scale: a learned factor a channel behind a linear (LayerScale, Touvron et al., arXiv 2103.17239) goes into it.

(x·Wᵀ + b)·γ = x·(γW)ᵀ + γb: exact, one elementwise pass over the residual branch less, and per-channel INT8 weights take the
factor for free.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.fx import Node

from vitc.graph import Rewriter, constant, shape_of
from vitc.graph.nodes import is_constant, is_tensor, same_shape, sole_user
from vitc.pipeline import Pass, register_pass
from vitc.program import Program

aten = torch.ops.aten


@register_pass
@dataclass(frozen=True)
class FoldLayerScale(Pass):
    """linear · γ → linear, where γ is a weight with one number an output feature, or one number."""

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
    left, right = mul.args
    linear, gamma = (left, right) if is_constant(right) else (right, left)
    if linear.target is not aten.linear.default or sole_user(linear) is not mul or not is_constant(gamma):  # type: ignore[union-attr]
        return
    if not all(is_constant(a) for a in linear.args[1:] if a is not None):  # type: ignore[union-attr]
        return
    factor = constant(rewriter.module, gamma).flatten()  # type: ignore[arg-type]
    if len(factor) not in (1, shape_of(linear)[-1]) or shape_of(gamma)[-1:] not in ((), (len(factor),)):  # type: ignore[arg-type]
        return
    if not same_shape(shape_of(mul), shape_of(linear)):  # type: ignore[arg-type]
        return
    with rewriter.at(linear):  # type: ignore[arg-type]
        operands = []
        for operand in (a for a in linear.args[1:] if a is not None):  # type: ignore[union-attr]
            value = constant(rewriter.module, operand)  # type: ignore[arg-type]
            scaled = value * factor.reshape([-1] + [1] * (value.ndim - 1))
            operands.append(rewriter.parameter(rewriter.unique_name(f"{operand.target}_scaled"), scaled))  # type: ignore[union-attr]
        new = rewriter.call(aten.linear.default, linear.args[0], *operands)  # type: ignore[union-attr]
    rewriter.replace(mul, new)
