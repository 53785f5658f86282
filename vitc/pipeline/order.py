"""The order of passes, as a graph: stages and `after`/`before` constraints are edges; networkx sorts or refuses."""

from __future__ import annotations

from collections.abc import Sequence

import networkx as nx

from vitc.errors import PipelineError
from vitc.graph.stages import STAGE_ORDER
from vitc.pipeline.base import Pass


def constraint_graph(passes: Sequence[Pass]) -> nx.DiGraph:
    """Nodes are positions in `passes`; an edge a → b, with its reason, says that a runs before b.

    A pass may stand in a pipeline several times: constraints bind its first appearance, a repetition stays behind
    its neighbour.
    """
    graph = nx.DiGraph()
    graph.add_nodes_from(range(len(passes)))
    firsts = {p.name: i for i, p in reversed(list(enumerate(passes)))}
    for i, item in enumerate(passes):
        if firsts[item.name] != i:
            graph.add_edge(i - 1, i, reason=f"{item.name!r} is repeated there")
    for i in firsts.values():
        for j in firsts.values():
            if i == j:
                continue
            a, b = passes[i], passes[j]
            if b.name in a.before:
                graph.add_edge(i, j, reason=f"{a.name!r} says before={b.name!r}")
            if a.name in b.after:
                graph.add_edge(i, j, reason=f"{b.name!r} says after={a.name!r}")
            if a.gives is not None and STAGE_ORDER.index(b.needs) >= STAGE_ORDER.index(a.gives) > _start(a):
                graph.add_edge(i, j, reason=f"{b.name!r} needs stage {b.needs!r}, {a.name!r} gives {a.gives!r}")
    return graph


def solve_order(passes: Sequence[Pass]) -> tuple[Pass, ...]:
    """The passes in an order that meets every constraint; where free, the given order stays.

    Raises PipelineError naming the passes and constraints of a cycle.
    """
    graph = constraint_graph(passes)
    try:
        return tuple(passes[i] for i in nx.lexicographical_topological_sort(graph))
    except nx.NetworkXUnfeasible:
        cycle = nx.find_cycle(graph)
        reasons = "; ".join(graph.edges[edge[:2]]["reason"] for edge in cycle)
        names = " → ".join(repr(passes[edge[0]].name) for edge in cycle)
        raise PipelineError(f"no order meets the constraints of {names}: {reasons}. Remove one of them") from None


def check_order(passes: Sequence[Pass], start: str = "captured") -> None:
    """Raises PipelineError if the written order breaks a constraint or a stage is not reached."""
    graph = constraint_graph(passes)
    for i, j, data in graph.edges(data=True):
        if i > j and "says" in data["reason"]:
            right = ",".join(p.name for p in solve_order(passes))
            raise PipelineError(
                f"pass {passes[i].name!r} stands after {passes[j].name!r}, but {data['reason']}. "
                f"An order that works: {right}"
            )
    stage = start
    for item in passes:
        if STAGE_ORDER.index(stage) < STAGE_ORDER.index(item.needs):
            givers = ", ".join(repr(p.name) for p in passes if p.gives == item.needs) or "no pass of this pipeline"
            raise PipelineError(
                f"pass {item.name!r} needs stage {item.needs!r}, but the program is at {stage!r} there; "
                f"{givers} gives it: move it before"
            )
        if item.gives is not None and STAGE_ORDER.index(item.gives) > STAGE_ORDER.index(stage):
            stage = item.gives


def _start(item: Pass) -> int:
    return STAGE_ORDER.index(item.needs)
