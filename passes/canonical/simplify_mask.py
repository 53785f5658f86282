"""simplify-mask: an attention's mask becomes an additive bias of rank 4, or goes where it masks nothing. That of a
causal attention is written out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from vitc.graph import Rewriter, constant, shape_of
from vitc.graph.nodes import is_constant, val
from vitc.graph.program import Program
from vitc.graph.sdpa import SdpaCall
from vitc.pipeline import Pass, register_pass

aten = torch.ops.aten
sdpa = aten.scaled_dot_product_attention.default


@register_pass
@dataclass(frozen=True)
class SimplifyMask(Pass):
    """Removes masks that mask nothing, and turns the others into an additive bias.

    A constant boolean mask becomes additive, an expand that only repeats is undone, and `is_causal` becomes the mask
    that it stands for.
    """

    name = "simplify-mask"
    after = ("fuse-attention", "attention-4d")

    def run(self, program: Program) -> Program:
        rewriter = Rewriter(program.module, self.name)
        causal: dict[tuple[Any, ...], Node] = {}
        for node in list(program.graph.nodes):
            if node.target is sdpa:
                _simplify(rewriter, node, causal)
        rewriter.finish()
        return program


def _simplify(rewriter: Rewriter, node: Node, causal: dict[tuple[Any, ...], Node]) -> None:
    call = SdpaCall.of(node)
    if call.mask is None and not call.causal:
        return
    with rewriter.at(node):
        mask = _causal_bias(rewriter, call, causal) if call.mask is None else call.mask
        bias = _bias(rewriter, mask, len(shape_of(node)), val(call.q).dtype)
        if bias is call.mask:
            return
        kwargs: dict[str, Any] = {} if call.scale is None else {"scale": call.scale}
        if call.grouped:
            kwargs["enable_gqa"] = True
        new = rewriter.call(sdpa, call.q, call.k, call.v, bias, call.dropout, False, **kwargs)
    rewriter.replace(node, new)


def _causal_bias(rewriter: Rewriter, call: SdpaCall, made: dict[tuple[Any, ...], Node]) -> Node:
    """[N, M], −∞ above the diagonal, which starts at the first query and the first key. One for all attentions of a
    size; with a dynamic size it is computed."""
    queries, keys, dtype = shape_of(call.q)[-2], shape_of(call.k)[-2], val(call.q).dtype
    if isinstance(queries, int) and isinstance(keys, int):
        form = (queries, keys, dtype)
        if form not in made:
            bias = torch.full((queries, keys), -torch.inf, dtype=dtype).triu(1)
            made[form] = rewriter.parameter(rewriter.unique_name(f"causal_{queries}x{keys}"), bias, trainable=False)
        return made[form]
    rows, columns = (
        rewriter.call(aten.arange.default, rewriter.call(aten.sym_size.int, t, len(shape_of(t)) - 2))
        for t in (call.q, call.k)
    )
    seen = rewriter.call(aten.le.Tensor, columns, rewriter.call(aten.unsqueeze.default, rows, 1))
    none = rewriter.call(aten.zeros_like.default, seen, dtype=dtype)
    return rewriter.call(aten.where.ScalarOther, seen, none, -torch.inf)


def _bias(rewriter: Rewriter, mask: Node, rank: int, dtype: torch.dtype) -> Node | None:
    """The additive bias that does what the mask does, of rank 4 where the attention has it; None if it does nothing;
    the mask itself if it is fine."""
    bias = mask
    while bias.target is aten.expand.default and len(shape_of(bias)) == len(shape_of(bias.args[0])):  # type: ignore[arg-type]
        bias = bias.args[0]  # type: ignore[assignment]
    if is_constant(bias):
        value = constant(rewriter.module, bias)
        if bool(value.all() if value.dtype == torch.bool else (value == 0).all()):
            return None
        if value.dtype == torch.bool:
            additive = torch.zeros(value.shape, dtype=dtype).masked_fill(~value, -torch.inf)
            bias = rewriter.parameter(rewriter.unique_name(f"{bias.target}_additive"), additive, trainable=False)
    if val(bias).dtype != torch.bool:
        while len(shape_of(bias)) < min(rank, 4):
            bias = rewriter.call(aten.unsqueeze.default, bias, 0)
    return bias
