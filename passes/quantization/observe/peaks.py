"""The largest magnitude of every tensor: the evidence for what may be FP16."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.fx import Node

from vitc.calibration.findings import Findings
from vitc.graph.nodes import is_tensor, val
from vitc.graph.program import Program
from vitc.passes.quantization.observe.observe import observe


class Peak:
    """The largest magnitude seen."""

    def __init__(self) -> None:
        self.value = 0.0

    def update(self, value: Tensor, images: int) -> None:
        low, high = value.detach().float().aminmax()
        # max() would drop a NaN; torch keeps it, and to-fp16 then does not trust the tensor.
        self.value = float(torch.stack([torch.tensor(self.value), -low, high]).max())

    def state(self) -> dict[str, Tensor]:
        return {"value": torch.tensor(self.value, dtype=torch.float64)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.value = float(state["value"])


def peak_observers(program: Program) -> list[tuple[Node, Peak]]:
    """One for every floating-point tensor that is computed."""
    return [
        (n, Peak())
        for n in program.graph.nodes
        if n.op in ("call_function", "placeholder") and is_tensor(n) and val(n).is_floating_point()
    ]


def peaks_of(observers: list[tuple[Node, Peak]]) -> dict[str, float]:
    """By node name, as `Findings` keeps them."""
    return {node.name: peak.value for node, peak in observers}


def with_peaks(program: Program) -> Program:
    """The program with peaks, from its calibration stream if it has one and does not know them yet."""
    if program.calibration is None or program.findings.peaks:
        return program
    observers = peak_observers(program)
    observe(program, observers)
    return program.calibrated(Findings(peaks=peaks_of(observers)))
