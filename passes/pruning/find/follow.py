"""From a program to its flow: features are numbered and pushed through the graph, by the rule of each operator.

Data movement needs no rule: it is run, on the tags.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node
from torch.fx.node import map_arg

from vitc.graph import constant
from vitc.graph.movement import MOVEMENT, SPLITTING, example_size
from vitc.graph.nodes import called, is_constant, operand, where
from vitc.graph.program import Program
from vitc.passes.pruning.find.flow import Flow
from vitc.passes.pruning.find.layers import LAYERS, through_layer
from vitc.passes.pruning.find.rules import MORE_MOVEMENT, RULES
from vitc.passes.pruning.find.tags import packed

aten = torch.ops.aten


def follow(program: Program) -> Flow:
    """Numbers the features of a canonical program and pushes them through its graph."""
    flow = Flow()
    twins: dict[str, Node] = {}
    for node in program.graph.nodes:
        if node.op == "output":
            for returned in node.all_input_nodes:
                flow.freeze(flow.tags.get(returned), "the model returns them")
        if node.op != "call_function" or isinstance(node.meta["val"], (int, torch.SymInt)):
            continue
        result = _apply(program, flow, node, twins)
        if isinstance(result, tuple):
            flow.tags[node] = tuple(packed(t) for t in result)
        elif result is not None:
            flow.tags[node] = packed(result)
    return flow


def _apply(program: Program, flow: Flow, node: Node, twins: dict[str, Node]) -> Any:
    if node.target in LAYERS:
        return through_layer(flow, node, twins)
    if node.target in MOVEMENT | SPLITTING | MORE_MOVEMENT and operand(node) in flow.tags:
        return _run(program, node, flow.tags[operand(node)])
    rule = RULES.get(node.target)
    if not any(n in flow.tags for n in node.all_input_nodes):
        return None
    result = rule(flow, node, flow.tags) if rule is not None else None
    if result is None:
        for source in node.all_input_nodes:
            flow.freeze(flow.tags.get(source), f"they reach {where(node)}, behind which features are not followed")
    return result


def _run(program: Program, node: Node, tags: Any) -> Any:
    def value(position: Node) -> Any:
        return constant(program.module, position) if is_constant(position) else example_size(position)

    if isinstance(tags, tuple):
        return None
    args: Any = map_arg(node.args[1:], value)
    if node.target in (aten.view.default, aten._unsafe_view.default, aten.reshape.default):
        return tags.reshape(args[0])
    result = called(node)(tags, *args, **node.kwargs)
    return tuple(result) if isinstance(result, (list, tuple)) else result
