"""attention-4d: every attention gets operands [B, H, N, D], with as many heads in k and v as in q.

Models also spell it with rank 3, heads merged into the batch (timm's SAM) or a single head, with rank 5, windows
beside the batch (Twins, Hiera), and with fewer heads in k and v (grouped queries, arXiv 2305.13245).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.fx import Node

from vitc.graph import Rewriter, shape_of
from vitc.graph.nodes import same_shape, sole_user, where
from vitc.graph.program import Program
from vitc.graph.sdpa import SdpaCall
from vitc.pipeline import Pass, register_pass

aten = torch.ops.aten
sdpa = aten.scaled_dot_product_attention.default


@register_pass
@dataclass(frozen=True)
class Attention4d(Pass):
    """Brings the operands of every attention to rank 4: [batch, heads, tokens, head size].

    Rank 3: heads come back out of the batch where the model splits them right after; elsewhere there is one head.
    Rank 5: the first two dimensions become one batch.
    Grouped heads of k and v are repeated for each of their queries.
    """

    name = "attention-4d"
    after = ("fuse-attention",)

    def run(self, program: Program) -> Program:
        rewriter = Rewriter(program.module, self.name)
        for node in list(program.graph.nodes):
            if node.target is not sdpa:
                continue
            node = _ungrouped(rewriter, node)
            if len(shape_of(node)) == 4:
                continue
            reason = _rewrite(rewriter, node)
            if reason:
                program = program.note(f"{where(node)} keeps rank {len(shape_of(node))}: {reason}")
        rewriter.finish()
        return program


def _ungrouped(rewriter: Rewriter, node: Node) -> Node:
    """The attention with heads of k and v repeated, where they are fewer than q's."""
    call = SdpaCall.of(node)
    if not call.grouped:
        return node
    with rewriter.at(node):
        repeated = [_with_heads(rewriter, t, shape_of(call.q)[-3]) for t in (call.k, call.v)]
        kwargs = {name: value for name, value in node.kwargs.items() if name != "enable_gqa"}
        new = rewriter.call(sdpa, call.q, *repeated, *node.args[3:], **kwargs)
    rewriter.replace(node, new)
    return new


def _with_heads(rewriter: Rewriter, operand: Node, heads: int) -> Node:
    own = shape_of(operand)[-3]
    if own == heads:
        return operand
    return rewriter.call(aten.repeat_interleave.self_int, operand, heads // own, len(shape_of(operand)) - 3)


def _rewrite(rewriter: Rewriter, node: Node) -> str | None:
    qkv = cast("list[Node]", list(node.args[:3]))
    mask = cast("Node | None", node.args[3] if len(node.args) > 3 else node.kwargs.get("attn_mask"))
    rank = len(shape_of(node))
    if rank not in (3, 5):
        return "no rank that a known model uses"
    if any(len(shape_of(t)) != rank for t in qkv):
        return "q, k and v have different ranks"
    operands = qkv if mask is None else [*qkv, mask]
    split = _split_heads(node)
    if rank == 5 and mask is not None:
        return "a mask on windows beside the batch"
    if mask is not None and split is not None and not same_shape(shape_of(mask)[:1], shape_of(node)[:1]):
        split = None  # the mask is not one per head
    with rewriter.at(node):
        if rank == 5:
            new = [rewriter.call(aten.flatten.using_ints, t, 0, 1) for t in operands]
        elif split is not None:
            new = [rewriter.call(aten.reshape.default, t, [*split, *shape_of(t)[1:]]) for t in operands]
        else:
            new = [rewriter.call(aten.unsqueeze.default, t, 1) if len(shape_of(t)) == 3 else t for t in operands]
        kwargs = {name: value for name, value in node.kwargs.items() if name != "attn_mask"}
        result = rewriter.call(sdpa, *new, *([None] * (4 - len(new))), *node.args[4:], **kwargs)
        if rank == 5:
            batch = rewriter.call(aten.sym_size.int, qkv[0], 0)
            result = rewriter.call(aten.reshape.default, result, [batch, *shape_of(node)[1:]])
        elif split is not None:
            result = rewriter.call(aten.flatten.using_ints, result, 0, 1)
        else:
            result = rewriter.call(aten.squeeze.dim, result, 1)
    rewriter.replace(node, result)
    return None


def _split_heads(node: Node) -> list[Any] | None:
    """[B, H], as the arguments of the view that takes the heads back out of the batch, right behind the attention."""
    view = sole_user(node)
    if view is None or view.target is not aten.reshape.default or len(shape_of(node)) != 3:
        return None
    shape, sizes = shape_of(view), view.args[1]
    if len(shape) != 4 or not same_shape(shape[2:], shape_of(node)[1:]) or not isinstance(shape[1], int):
        return None
    return list(sizes[:2])  # type: ignore[index, arg-type]
