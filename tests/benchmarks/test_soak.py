"""What the soak test calls growth: of made-up samples, and of a short real run."""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "soak.py"
STILL = {"mb": 100.0, "descriptors": 10.0, "threads": 4.0}


@pytest.fixture(scope="module")
def soak() -> ModuleType:
    spec = importlib.util.spec_from_file_location("soak", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["soak"] = module
    spec.loader.exec_module(module)
    return module


def samples(mb: float = 0.0, ms: float = 0.0) -> list[dict[str, float]]:
    """One hour; memory grows by `mb`, latency by `ms`."""
    return [{**STILL, "at": 36.0 * i, "mb": 100 + mb * i / 100, "ms": 1 + ms * i / 100, "calls": 5} for i in range(101)]


@pytest.mark.parametrize(
    ("taken", "after", "differ", "problem"),
    [
        (samples(), STILL, 0, None),
        (samples(mb=100), STILL, 0, "memory grows by 100 MB an hour"),
        (
            [*samples()[:-11], *({**s, "ms": 5.0} for s in samples()[-11:])],
            STILL,
            0,
            "latency went from 1.00 to 5.00 ms",
        ),
        (samples(), {**STILL, "descriptors": 12.0}, 0, "2 more descriptors"),
        (samples(), {**STILL, "threads": 5.0}, 0, "1 more threads"),
        (samples(), STILL, 3, "3 answers differ"),
    ],
)
def test_growth_is_told(soak: ModuleType, taken: Any, after: Any, differ: int, problem: str | None) -> None:
    found = soak.judged(taken, STILL, after, differ)
    assert found["problems"] == ([] if problem is None else [problem])
    assert found["calls"] == 505


def test_a_leak_is_found(soak: ModuleType) -> None:
    kept: list[int] = []

    def leaky(images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        if len(kept) < 30:
            kept.append(os.open(os.devnull, os.O_RDONLY))
        return images * 2

    try:
        found = soak.soak(leaky, seconds=1.0, threads=2)
        assert any("more descriptors" in problem for problem in found["problems"])
    finally:
        for descriptor in kept:
            os.close(descriptor)
    assert soak.soak(lambda images: images * 2, seconds=1.0, threads=2)["problems"] == []
    assert threading.active_count() < 20
