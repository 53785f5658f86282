"""The device side: build a bundle's engine, run it, time it, check it. Needs NumPy and an engine, never
torch.

>>> from vitc import runtime
>>> runner = runtime.load("vit_b.vitc")
>>> runner.self_check().passed
True
>>> logits = runner(images)

From a shell, where nothing else is installed: `python -m vitc.runtime {build,run,bench,check} BUNDLE`.
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
