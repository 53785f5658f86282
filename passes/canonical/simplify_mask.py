"""simplify-mask: an attention's mask becomes an additive bias of rank 4, or goes where it masks nothing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.fx import Node

from vitc.graph import Rewriter, constant, shape_of
from vitc.graph.nodes import is_constant, val
from vitc.graph.program import Program
from vitc.pipeline import Pass, register_pass

aten = torch.ops.aten
sdpa = aten.scaled_dot_product_attention.default


@register_pass
@dataclass(frozen=True)
class SimplifyMask(Pass):
    """Removes masks that mask nothing, and turns the others into an additive bias.

    A constant boolean mask becomes additive, and an expand that only repeats is undone.
    """

    name = "simplify-mask"
    after = ("fuse-attention", "attention-4d")

    def run(self, program: Program) -> Program:
        rewriter = Rewriter(program.module, self.name)
        for node in list(program.graph.nodes):
            if node.target is sdpa:
                _simplify(rewriter, node)
        rewriter.finish()
        return program


def _simplify(rewriter: Rewriter, node: Node) -> None:
    args = list(node.args) + [None, 0.0, False][len(node.args) - 3 :]
    mask = node.kwargs.get("attn_mask", args[3])
    if not isinstance(mask, Node):
        return
    with rewriter.at(node):
        bias = _bias(rewriter, mask)
        if bias is mask:
            return
        kwargs = {k: v for k, v in node.kwargs.items() if k != "attn_mask"}
        new = rewriter.call(sdpa, *args[:3], bias, *args[4:], **kwargs)
    rewriter.replace(node, new)


def _bias(rewriter: Rewriter, mask: Node) -> Node | None:
    """The additive bias of rank 4 that does what the mask does; None if it does nothing; the mask itself if it is
    fine."""
    bias = mask
    while bias.target is aten.expand.default and len(shape_of(bias)) == len(shape_of(bias.args[0])):  # type: ignore[arg-type]
        bias = bias.args[0]  # type: ignore[assignment]
    if is_constant(bias):
        value = constant(rewriter.module, bias)
        if bool(value.all() if value.dtype == torch.bool else (value == 0).all()):
            return None
        if value.dtype == torch.bool:
            additive = torch.zeros(value.shape).masked_fill(~value, -torch.inf)
            bias = rewriter.parameter(rewriter.unique_name(f"{bias.target}_additive"), additive, trainable=False)
    if val(bias).dtype != torch.bool:
        while len(shape_of(bias)) < 4:
            bias = rewriter.call(aten.unsqueeze.default, bias, 0)
    return bias
