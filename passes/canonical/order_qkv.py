"""order-qkv: one linear that gives q, k and v in another order than [3, H, D] gets its rows sorted.

TinyViT and MaxViT cut each head into its own q, k and v ([H, 3, D]). Sorting the weight's rows is free and exact, and
makes the linear's output the packed tensor that the attention kernel takes without a copy.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.fx import Node

from vitc.graph import Rewriter, constant
from vitc.graph.movement import ancestry, example_shape, indices, moved_from, replay
from vitc.graph.nodes import is_constant
from vitc.graph.program import Program
from vitc.pipeline import Pass, register_pass

aten = torch.ops.aten


@register_pass
@dataclass(frozen=True)
class OrderQkv(Pass):
    """Sorts the rows of one linear that gives q, k and v, so that all of q comes first, then k, then v.

    Only where all features of the linear go to q, k and v of one attention, and nowhere else.
    """

    name = "order-qkv"
    after = ("fuse-attention", "attention-4d", "batch-first")

    def run(self, program: Program) -> Program:
        rewriter = Rewriter(program.module, self.name)
        for node in list(program.graph.nodes):
            if node.target is not aten.scaled_dot_product_attention.default:
                continue
            linear = ancestry(node.args[0])[-1]
            order = _order(linear, node)
            if order is not None:
                _sort(rewriter, linear, node, order)
        rewriter.finish()
        return program


def _order(linear: Node, attention: Node) -> torch.Tensor | None:
    """The linear's features in the order q, k, v, each [H, D]; None if they have it, or are not all of one
    attention's."""
    if linear.target is not aten.linear.default or not all(is_constant(n) for n in linear.args[1:] if n is not None):
        return None
    operands: list[Node] = list(attention.args[:3])  # type: ignore[arg-type]
    if any(ancestry(t)[-1] is not linear for t in operands) or not _feeds_only(linear, attention):
        return None
    batch, heads, tokens, head_dim = example_shape(operands[0])
    features = 3 * heads * head_dim
    if example_shape(linear) != (batch, tokens, features) or any(
        example_shape(t) != example_shape(operands[0]) for t in operands
    ):
        return None
    start = indices(linear)
    moved = torch.stack([replay(t, linear, start).transpose(1, 2) for t in operands], dim=2).reshape(
        batch, tokens, features
    )
    order = moved[0, 0]
    if torch.equal(order, start[0, 0]) or not torch.equal(moved, start[..., order]):
        return None
    return order


def _feeds_only(linear: Node, attention: Node) -> bool:
    """Everything computed from the linear, up to the attention, is data movement."""
    pending = list(linear.users)
    while pending:
        user = pending.pop()
        if user is attention:
            continue
        if moved_from(user) is None and not any(moved_from(u) is not None for u in user.users):
            return False
        pending += user.users
    return True


def _sort(rewriter: Rewriter, linear: Node, attention: Node, order: torch.Tensor) -> None:
    heads, head_dim = example_shape(attention)[1], example_shape(attention)[3]
    width = heads * head_dim
    with rewriter.at(linear):
        sorted_args = []
        for operand in linear.args[1:]:
            value = constant(rewriter.module, operand)[order.long()]  # type: ignore[arg-type]
            sorted_args.append(rewriter.parameter(rewriter.unique_name(f"{operand.target}_ordered"), value))  # type: ignore[union-attr]
        new = rewriter.call(aten.linear.default, linear.args[0], *sorted_args)
    with rewriter.at(attention):
        parts = [rewriter.call(aten.slice.Tensor, new, -1, i * width, (i + 1) * width) for i in range(3)]
        split = [rewriter.call(aten.unflatten.int, part, -1, [heads, head_dim]) for part in parts]
        operands = [rewriter.call(aten.transpose.int, part, 1, 2) for part in split]
        rewriter.replace(attention, rewriter.call(attention.target, *operands, *attention.args[3:], **attention.kwargs))  # type: ignore[arg-type]
