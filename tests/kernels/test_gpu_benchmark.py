"""What of benchmarks/gpu_attention.py can be checked without a GPU: it says so and stops, and its arithmetic."""

from __future__ import annotations

import importlib.util
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu_attention.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_attention", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_attention"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_without_a_gpu_it_says_so_and_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("PYTHONPATH", ":".join(p for p in sys.path if p))
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "gpu_attention.py times kernels on a GPU, and torch" in done.stderr
    assert "sees no NVIDIA GPU: run it where `nvidia-smi` lists one" in done.stderr


def test_shapes(benchmark: ModuleType) -> None:
    found = list(benchmark.shapes(["B", "H"], [224, 384], [1, 8]))
    assert [(s.tokens, s.head_dim, s.batch) for s in found] == [
        (197, 64, 1),
        (197, 64, 8),
        (577, 64, 1),
        (577, 64, 8),
        (257, 80, 1),
        (257, 80, 8),
        (730, 80, 1),
        (730, 80, 8),
    ]
    assert found[0].operations == 4 * 12 * 197 * 197 * 64
    assert found[0].bytes_moved(1) == 4 * 197 * 768


def test_errors(benchmark: ModuleType) -> None:
    true = np.ones((1, 2, 4))
    out = true.copy()
    out[..., 3] = 0.5
    cosine, l1, worst = benchmark.errors(out, true, heads=2)
    assert cosine == pytest.approx(7 / math.sqrt(6.5 * 8))
    assert (l1, worst) == (0.125, 0.25)


def test_table_takes_the_fastest_peer_as_the_measure(benchmark: ModuleType) -> None:
    shape = next(benchmark.shapes(["B"], [224], [1]))
    lines = [
        benchmark.Line(shape, "flash float16", 2, 30e-6),
        benchmark.Line(shape, "math float16", 2, 90e-6),
        benchmark.Line(shape, "vitc int8", 1, 10e-6),
    ]
    roofline = benchmark.Roofline(int8=200e12, half=100e12, bandwidth=1e12)
    rows = benchmark.table(lines, roofline).splitlines()
    assert "x 1.00" in rows[0]
    assert "x 0.33" in rows[1]
    assert "x 3.00" in rows[2]
    assert f"{shape.operations / 10e-6 / 1e12:7.1f} TOPS" in rows[2]
    seconds = max(shape.operations / 200e12, 4 * 197 * 768 / 1e12)
    assert f"{seconds / 10e-6:6.1%} of roofline" in rows[2]
