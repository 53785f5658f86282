"""What torch makes of an operator that vitc has no form for: its own decomposition, as a small graph."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch._decomp import core_aten_decompositions, decomposition_table
from torch._guards import detect_fake_mode
from torch.func import functionalize
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from vitc.graph import Rewriter


def decomposition(node: Node, kept: Collection[Any]) -> tuple[GraphModule, list[Node]] | None:
    """The graph of a node in operators of `kept` as far as torch knows them, and the nodes it takes as inputs, in
    order; None if torch has no decomposition, or makes the operator itself of it."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return None
    if target not in decomposition_table and not target._can_decompose():
        return None
    table = {op: rule for op, rule in {**decomposition_table, **core_aten_decompositions()}.items() if op not in kept}
    leaves, spec = pytree.tree_flatten((node.args, dict(node.kwargs)))
    inputs = list(dict.fromkeys(leaf for leaf in leaves if isinstance(leaf, Node)))
    values = [n.meta["val"] for n in inputs]

    def call(*given: Any) -> Any:
        by_node = dict(zip(inputs, given, strict=True))
        args, kwargs = pytree.tree_unflatten([by_node[v] if isinstance(v, Node) else v for v in leaves], spec)
        return target(*args, **kwargs)

    mode = detect_fake_mode([v for v in values if isinstance(v, torch.Tensor)])
    if mode is None:
        return None
    try:
        with torch.no_grad(), mode:
            traced = make_fx(
                functionalize(call, remove="mutations_and_views"),
                decomposition_table=table,
                tracing_mode="symbolic",
                _allow_non_fake_inputs=True,
            )(*values)
    except Exception:  # a decomposition that asks for values, or has no meta: as good as none
        return None
    if any(n.target is target for n in traced.graph.nodes):
        return None
    _without_writes(traced)
    for inner in traced.graph.nodes:
        for key in ("nn_module_stack", "stack_trace"):
            if key in node.meta:
                inner.meta[key] = node.meta[key]
    return traced, inputs


def _without_writes(traced: GraphModule) -> None:
    """A write into a tensor, which some decompositions end with, becomes a new tensor that all later nodes read."""
    rewriter = Rewriter(traced, "decompose")
    order = {node: i for i, node in enumerate(traced.graph.nodes)}
    for node in list(traced.graph.nodes):
        if node.target is torch.ops.aten.copy_.default:
            written = node.args[0]
            rewriter.edit(node, target=torch.ops.aten.copy.default)
            written.replace_all_uses_with(node, delete_user_cb=lambda user, at=order[node]: order[user] > at)
