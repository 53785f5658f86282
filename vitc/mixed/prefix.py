"""Running a graph from the middle: what comes before a change is computed once and kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.utils._pytree import tree_leaves

from vitc.graph.program import Program
from vitc.passes.interpreter import FastInterpreter

Batch = tuple[Tensor, ...]


class Prefixes:
    """The values of a program that are alive at some of its nodes, for some batches.

    `cuts`: names of nodes; a program that differs from this one only at and after such a node is run from there.
    """

    def __init__(self, program: Program, batches: Sequence[Batch], cuts: Iterable[str]) -> None:
        nodes = list(program.graph.nodes)
        order = {n.name: i for i, n in enumerate(nodes)}
        self._before = {cut: {n.name for n in nodes[: order[cut]] if n.op != "get_attr"} for cut in cuts}
        alive = {cut: _alive(nodes, order[cut]) for cut in self._before}
        self._kept: list[dict[str, dict[str, Any]]] = []
        self.outputs: list[list[Tensor]] = []
        for batch in batches:
            runner = _Keeping(program, alive)
            self.outputs.append(_tensors(runner.run(*batch, enable_io_processing=False)))
            self._kept.append(runner.kept)

    def run(self, program: Program, cut: str) -> list[list[Tensor]]:
        """The outputs of a program that is this one up to `cut`, batch by batch."""
        results = []
        with torch.no_grad():
            for kept in self._kept:
                env: dict[Node, Any] = {}
                for node in program.graph.nodes:
                    if node.name in self._before[cut]:
                        env[node] = kept[cut].get(node.name)  # None: nobody reads it any more
                results.append(
                    _tensors(FastInterpreter(program.module).run(initial_env=env, enable_io_processing=False))
                )
        return results


def _alive(nodes: list[Node], at: int) -> list[Node]:
    """What is computed before a node and read at or after it."""
    later = set(nodes[at:])
    return [n for n in nodes[:at] if n.op != "get_attr" and any(user in later for user in n.users)]


class _Keeping(FastInterpreter):
    def __init__(self, program: Program, alive: dict[str, list[Node]]) -> None:
        super().__init__(program.module)
        self.alive = alive
        self.kept: dict[str, dict[str, Any]] = {}

    @torch.no_grad()
    def run_node(self, n: Node) -> Any:
        if n.name in self.alive:
            self.kept[n.name] = {a.name: self.env[a] for a in self.alive[n.name]}
        return super().run_node(n)


def _tensors(outputs: Any) -> list[Tensor]:
    return [t for t in tree_leaves(outputs) if isinstance(t, Tensor) and t.is_floating_point()]
