"""A graph run step by step on a few batches at once: all of them up to one node, then on to the next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from vitc.passes.interpreter import FastInterpreter


class Walk:
    """Between two steps only what is still read is kept of each batch; weights ahead may change."""

    def __init__(self, module: GraphModule, batches: Sequence[tuple[Tensor, ...]]) -> None:
        self._runner = FastInterpreter(module)
        self._nodes = [n for n in module.graph.nodes if n.op != "placeholder"]
        self._at = 0
        inputs = [n for n in module.graph.nodes if n.op == "placeholder"]
        self._kept: list[dict[Node, Any]] = [dict(zip(inputs, batch, strict=True)) for batch in batches]

    @torch.no_grad()
    def advance(self, until: Node) -> list[dict[Node, Any]]:
        """Runs what stands before a node; of each batch, the values that are read from there on."""
        stop = self._nodes.index(until, self._at)
        passed = set(self._nodes[:stop])
        for i, values in enumerate(self._kept):
            known = self._runner.stretch(self._nodes[self._at : stop], values)
            self._kept[i] = {n: v for n, v in known.items() if not passed.issuperset(n.users)}
        self._at = stop
        return self._kept
