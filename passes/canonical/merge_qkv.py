"""merge-qkv: three linears that read the same tensor for one attention become one linear.

One GEMM of width 3·C keeps the machine busier than three of width C, reads the activation once, and its output is the
packed [B, N, 3·H·D] that the attention kernel takes without a copy.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.fx import Node

from vitc.graph import Rewriter, constant, module_path, shape_of
from vitc.graph.movement import ancestry
from vitc.graph.nodes import is_constant
from vitc.graph.program import Program
from vitc.pipeline import Pass, register_pass

aten = torch.ops.aten


@register_pass
@dataclass(frozen=True)
class MergeQkv(Pass):
    """Merges the linears of q, k and v into one where they have equal width, one input, and no other reader."""

    name = "merge-qkv"
    after = ("fuse-attention", "batch-first")

    def run(self, program: Program) -> Program:
        rewriter = Rewriter(program.module, self.name)
        for node in list(program.graph.nodes):
            if node.target is not aten.scaled_dot_product_attention.default:
                continue
            linears = [ancestry(operand)[-1] for operand in node.args[:3]]
            if _mergeable(linears):
                _merge(rewriter, linears)
        rewriter.finish()
        return program


def _mergeable(linears: list[Node]) -> bool:
    if len(set(linears)) != 3 or any(n.target is not aten.linear.default for n in linears):
        return False
    first = linears[0]
    return all(
        n.args[0] is first.args[0]
        and shape_of(n) == shape_of(first)
        and is_constant(n.args[1])
        and (len(n.args) < 3 or n.args[2] is None or is_constant(n.args[2]))
        for n in linears
    )


def _merge(rewriter: Rewriter, linears: list[Node]) -> None:
    module, first = rewriter.module, min(linears, key=_position)
    weights = [constant(module, n.args[1]) for n in linears]  # type: ignore[arg-type]
    width = weights[0].shape[0]
    biases = [
        constant(module, n.args[2]) if len(n.args) > 2 and isinstance(n.args[2], Node) else weights[0].new_zeros(width)
        for n in linears
    ]
    has_bias = any(len(n.args) > 2 and n.args[2] is not None for n in linears)
    parent = module_path(first).rpartition(".")[0]
    prefix = f"{parent}.qkv" if parent else "qkv"
    with rewriter.at(first):
        weight = rewriter.parameter(rewriter.unique_name(f"{prefix}.weight"), torch.cat(weights))
        bias = rewriter.parameter(rewriter.unique_name(f"{prefix}.bias"), torch.cat(biases)) if has_bias else None
        merged = rewriter.call(aten.linear.default, first.args[0], weight, bias)
        parts = [rewriter.call(aten.slice.Tensor, merged, -1, i * width, (i + 1) * width) for i in range(3)]
    for linear, part in zip(linears, parts, strict=True):
        rewriter.replace(linear, part)


def _position(node: Node) -> int:
    return next(i for i, n in enumerate(node.graph.nodes) if n is node)
