"""Predicted and real error of rounding each tensor to INT8, one at a time: the figures behind decision 0060.

    python benchmarks/int8_error_model.py

The digits model (benchmarks/tasks.py), after smooth-activations with α = 1 everywhere, 128 calibration images, range:
the largest magnitude seen. Errors are squared, summed over the outputs, per test image.
"""

from __future__ import annotations

from typing import Any

import tasks
import torch
from torch.fx import GraphModule, Node

import vitc.targets
from vitc.calibration.stream import CalibrationStream
from vitc.frontend.capture import capture
from vitc.passes.interpreter import FastInterpreter
from vitc.passes.quantization.error.importance import ProbeImages
from vitc.passes.quantization.error.measured_error import Part, probe
from vitc.passes.quantization.observe.observe import observe
from vitc.passes.quantization.observe.statistics import ChannelStatistics
from vitc.passes.quantization.scales import fake_quantize
from vitc.pipeline import parse_pipeline, run_pipeline
from vitc.pipeline.default import CANONICAL

PIPELINE = ",".join([*CANONICAL, "tile-attention", "smooth-activations{alphas=[1.0]}"])


class Rounded(FastInterpreter):
    """The graph with one tensor rounded."""

    def __init__(self, module: GraphModule, tensor: Node, limit: float) -> None:
        super().__init__(module)
        self.tensor, self.limit = tensor, limit

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        return fake_quantize(result, self.limit) if n is self.tensor else result


def main() -> None:
    task = tasks.load("digits")  # trains it if need be
    with torch.no_grad():
        print_table(task)


def print_table(task: tasks.Task) -> None:
    images, (test, _) = task.train[0][:128], task.test
    program = capture(task.model, vitc.targets.load("orin"), images[:2])
    program = program.evolve(calibration=CalibrationStream(images, (tuple(images.shape[1:]),)))
    program = run_pipeline(program, parse_pipeline(PIPELINE))
    linears = program.graph.find_nodes(op="call_function", target=torch.ops.aten.linear.default)
    tensors = {n.args[0].name: Part(n.args[0]) for n in linears[:-1]}  # the last is the classifier
    channels = {name: ChannelStatistics() for name in tensors}
    probes = ProbeImages(program, seed=0)
    observe(
        program, [p for name, part in tensors.items() for p in part.watched(channels[name])] + list(probes.observers())
    )
    found, _ = probe(probes, tensors, channels)
    want = task.model(test)
    print("| tensor | real | predicted, rounding | predicted, with unseen images |\n|---|---|---|---|")
    for name, part in tensors.items():
        limit = float(channels[name].peak.max())
        (got,) = Rounded(program.module, part.node, limit).run(test, enable_io_processing=False)
        real = float((got - want).square().sum()) / len(test)
        rounding, unseen = found[name].rounding(limit), found[name].unseen_clipping(limit)
        print(f"| {name} | {real:.1e} | {rounding:.1e} | {rounding + unseen:.1e} |")


if __name__ == "__main__":
    main()
