"""Runs the CUDA kernel's own source on the CPU: compiled by the host's C++ compiler against `machine.h`.

`Harness(variants).run(fields, inputs, tile)` gives what the kernel would write, or raises `HarnessFault` with the
first race, access out of bounds, missing wait or parted warp that the machine saw. See machine.h for what it watches.

machine.{h,cpp}  the machine: threads, warps, shared memory, and who touched what
half.h           FP16 on the host
entry.cpp        the C functions that start the compiled kernel
compile          compiles all of it with the variants asked for
play             calls it with NumPy arrays
"""

from __future__ import annotations

from vitc.kernels.harness.compile import CUDA_SOURCES, FLAGS, HARNESS_SOURCES, build, default_cache, host_compiler
from vitc.kernels.harness.play import Harness, HarnessFault, Played

__all__ = [
    "CUDA_SOURCES",
    "FLAGS",
    "HARNESS_SOURCES",
    "Harness",
    "HarnessFault",
    "Played",
    "build",
    "default_cache",
    "host_compiler",
]
