"""recognize-layer-norm: (x − mean)/√(var + ε)·γ + β written out becomes one aten.layer_norm (arXiv 1607.06450).

A decomposed LayerNorm overflows in FP16 (x² leaves the range at |x| > 255) and no engine fuses it well.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.fx import Node

from vitc.graph import Rewriter
from vitc.graph.nodes import is_constant, is_tensor, shape_of, sole_user
from vitc.graph.program import Program
from vitc.pipeline import Pass, register_pass

aten = torch.ops.aten


@register_pass
@dataclass(frozen=True)
class RecognizeLayerNorm(Pass):
    """Replaces a LayerNorm that is written out by one aten.layer_norm.

    Matches centred/√(mean(centred²) + ε), as a division or a product with rsqrt, over the last dimension.
    """

    name = "recognize-layer-norm"
    after = ("drop-noops",)

    def run(self, program: Program) -> Program:
        rewriter = Rewriter(program.module, self.name)
        for node in list(program.graph.nodes):
            match = _match(node)
            if match is None:
                continue
            x, eps = match
            last, weight, bias = _affine(node, shape_of(x)[-1])
            with rewriter.at(last):
                new = rewriter.call(aten.layer_norm.default, x, [shape_of(x)[-1]], weight, bias, eps)
            rewriter.replace(last, new)
        rewriter.finish()
        return program


def _match(node: Node) -> tuple[Node, float] | None:
    """(x, ε) if `node` is the normalized value."""
    if node.target not in (aten.div.Tensor, aten.mul.Tensor) or not all(isinstance(a, Node) for a in node.args):
        return None
    centred, inverse = node.all_input_nodes[0], node.all_input_nodes[-1]
    root = aten.sqrt.default if node.target is aten.div.Tensor else aten.rsqrt.default
    if inverse.target is not root or centred.target is not aten.sub.Tensor or not all(map(is_tensor, centred.args[:2])):
        return None
    x, mean = centred.all_input_nodes[0], centred.all_input_nodes[-1]
    if not _is_last_mean(mean) or mean.args[0] is not x:
        return None
    plus = inverse.all_input_nodes[0]
    if plus.target is not aten.add.Tensor or not isinstance(plus.args[1], (int, float)):
        return None
    variance = plus.all_input_nodes[0]
    if not _is_last_mean(variance):
        return None
    squared = variance.all_input_nodes[0]
    is_square = squared.target is aten.pow.Tensor_Scalar and squared.args[0] is centred and squared.args[1] == 2
    is_product = squared.target is aten.mul.Tensor and all(a is centred for a in squared.args)
    return (x, float(plus.args[1])) if is_square or is_product else None


def _is_last_mean(node: object) -> bool:
    return (
        isinstance(node, Node)
        and node.target is aten.mean.dim
        and list(node.args[1]) in ([-1], [len(shape_of(node.args[0])) - 1])  # type: ignore[arg-type]
        and len(node.args) > 2
        and node.args[2] is True
    )


def _affine(node: Node, width: int) -> tuple[Node, Node | None, Node | None]:
    """The last node of ·γ and +β after the normalized value, with γ and β where they are there."""
    last = node
    found: list[Node | None] = []
    for target in (aten.mul.Tensor, aten.add.Tensor):
        user = sole_user(last)
        operand = None
        if user is not None and user.target is target:
            operand = next((a for a in user.all_input_nodes if is_constant(a) and shape_of(a) == (width,)), None)
        found.append(operand)
        if operand is not None:
            assert user is not None
            last = user
    return last, found[0], found[1]
