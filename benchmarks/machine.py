"""What every committed result says about itself: when, on what processor, with which versions."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path


def processor() -> str:
    """The processor's name, its number of cores here, and the INT8 instruction it has."""
    from vitc.lowering.cpu.machine import int8_dot

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{name}, {os.cpu_count()} cores, INT8 by {int8_dot() or 'no dot product'}"


def stamp(script: str, *packages: str) -> str:
    """One line: the command, the date, the processor, versions of vitc, Python and `packages`, and the load average."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("vitc", *packages))
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    return (
        f"`python benchmarks/{script}`, {datetime.date.today()}; {processor()}; {versions}; Python"
        f" {platform.python_version()}; load average at the end {load}."
    )
