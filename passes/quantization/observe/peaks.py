"""The largest magnitude of every tensor: the evidence for what may be FP16."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.fx import Node

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
    """As `Program.ranges` keeps them."""
    return {f"{node.name}/peak": peak.value for node, peak in observers}


def with_peaks(program: Program) -> Program:
    """The program with peaks, from its calibration stream if it has one and does not know them yet."""
    if program.calibration is None or any(name.endswith("/peak") for name in program.ranges):
        return program
    observers = peak_observers(program)
    observe(program, observers)
    return program.calibrated(peaks_of(observers), {})
