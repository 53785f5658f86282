"""Runs the calibration stream through the graph once and shows each tensor asked for to its observers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.fx import GraphModule, Node

from vitc.calibration.observer import Observer
from vitc.graph.program import Program
from vitc.passes.interpreter import FastInterpreter


def observe(program: Program, observers: Iterable[tuple[Node, Observer]]) -> None:
    """Shows the value of each node to its observers, batch by batch; nothing is kept here. With a journal, batches that
    an earlier run has shown are not run again: the observers get the state that they had."""
    stream, watched = program.calibration, list(observers)
    assert stream is not None
    runner = _Runner(program.module, watched)
    with torch.no_grad():
        for batch in stream if stream.journal is None else stream.journal.unseen(program.module, stream, watched):
            runner.images = batch[0].shape[0]
            runner.run(*batch, enable_io_processing=False)


class _Runner(FastInterpreter):
    def __init__(self, module: GraphModule, observers: Iterable[tuple[Node, Observer]]) -> None:
        super().__init__(module)
        self.images = 0
        self._observers: dict[Node, list[Observer]] = {}
        for node, observer in observers:
            self._observers.setdefault(node, []).append(observer)

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        for observer in self._observers.get(n, ()):
            observer.update(result, self.images)
        return result
