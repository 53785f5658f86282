"""Runs the calibration stream through the graph once and keeps a histogram for each tensor asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.fx import Interpreter, Node

from vitc.calibration import MagnitudeHistogram
from vitc.program import Program


def observe(program: Program, sites: Mapping[str, tuple[Node, int]]) -> dict[str, MagnitudeHistogram]:
    """One histogram a site. A site is (node, part): part −1 is the whole tensor, 0..2 a third of its last dimension."""
    assert program.calibration is not None
    histograms = {name: MagnitudeHistogram() for name in sites}
    by_node: dict[Node, list[tuple[str, int]]] = {}
    for name, (node, part) in sites.items():
        by_node.setdefault(node, []).append((name, part))
    observer = _Observer(program.module, by_node, histograms)
    with torch.no_grad():
        for batch in program.calibration:
            observer.run(*batch, enable_io_processing=False)
    return histograms


class _Observer(Interpreter):
    def __init__(
        self, module: Any, by_node: dict[Node, list[tuple[str, int]]], histograms: dict[str, MagnitudeHistogram]
    ) -> None:
        super().__init__(module)
        self._by_node = by_node
        self._histograms = histograms

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        for name, part in self._by_node.get(n, ()):
            value = result if part < 0 else result.chunk(3, dim=-1)[part]
            self._histograms[name].update(value)
        return result
