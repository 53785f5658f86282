"""The rates of the machine at hand, measured in a moment, so that the cost model can compare candidates for a CPU."""

from __future__ import annotations

import time
from functools import cache

import torch

from vitc.targets import Target

_SIZE, _ROUNDS = 768, 5


def with_measured_rates(target: Target) -> Target:
    """A CPU target with FP32 rate and memory bandwidth as measured here, once a process; other targets as they are."""
    if target.kind != "cpu" or target.fp32_tflops is not None:
        return target
    tflops, gbs = _rates()
    return target.with_measured(fp32_tflops=tflops, int8_tops=tflops, memory_gbs=gbs, source=f"torch {torch.__version__} on this machine")


@cache
def _rates() -> tuple[float, float]:
    """(10¹² FP32 operations/s of a matrix product, 10⁹ bytes/s of a copy), the best of a few rounds."""
    a = torch.ones(_SIZE, _SIZE)
    block = torch.ones(2**23)
    product = min(_seconds(lambda: a @ a) for _ in range(_ROUNDS))
    copy = min(_seconds(block.clone) for _ in range(_ROUNDS))
    return 2 * _SIZE**3 / product / 1e12, 2 * block.numel() * block.element_size() / copy / 1e9


def _seconds(work: object) -> float:
    started = time.perf_counter()
    work()  # type: ignore[operator]
    return time.perf_counter() - started
