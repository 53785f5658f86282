"""The device side: builds a bundle's engine, runs it, times it, checks it. Needs NumPy and an engine, never torch.

>>> from vitc import runtime
>>> runner = runtime.load("vit_b.vitc")
>>> runner.self_check().passed
True
>>> logits = runner(images)

From a shell, where nothing else is installed: `python -m vitc.runtime {build,run,bench,check,verify} BUNDLE`.

runner           a bundle, loaded on an engine of this machine
builder          its TensorRT engine, built once on the device
tensorrt_engine  that engine, run with NumPy arrays
cuda             the few calls of the CUDA driver which that takes
feeds            a call's arguments against what the model takes
check            how near an output is to its golden one
bench            how long a call takes
power            what the device draws meanwhile
energy           what a run took, from the rails that exist here
watch_command    the arguments of `watch`, handed to vitc.video
"""

from __future__ import annotations

from vitc.runtime.bench import BenchReport
from vitc.runtime.builder import Built, build
from vitc.runtime.check import CheckReport, CheckRow
from vitc.runtime.power import Power, read_power
from vitc.runtime.runner import ENGINES, Runner, load

__all__ = [
    "ENGINES",
    "BenchReport",
    "Built",
    "CheckReport",
    "CheckRow",
    "Power",
    "Runner",
    "build",
    "load",
    "read_power",
]
