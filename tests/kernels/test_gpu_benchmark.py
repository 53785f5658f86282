"""What of benchmarks/gpu_attention.py can be checked without a GPU: it says so and stops, and its arithmetic."""

from __future__ import annotations

import importlib.util
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vitc.errors import BuildError

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu_attention.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_attention", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_attention"] = module  # dataclasses look their module up
    sys.path.insert(0, str(SCRIPT.parent))  # as for a script, which finds its neighbours there
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


def test_goals_are_judged_by_their_worst_shape(benchmark: ModuleType) -> None:
    one, eight = benchmark.shapes(["B"], [224], [1, 8])
    lines = [
        benchmark.Line(one, "flash float16", 2, 30e-6),
        benchmark.Line(one, "vitc int8", 1, 40e-6, 0.9995, 0.02, 0.03),
        benchmark.Line(eight, "flash float16", 2, 30e-6),
        benchmark.Line(eight, "vitc int8", 1, 15e-6, 0.9996, 0.07, 0.08),
    ]
    said = benchmark.verdicts(lines, benchmark.Roofline(int8=200e12, half=100e12, bandwidth=1e12))
    assert said[0].startswith("met: x1.5 the fastest peer at N <= 577, batch >= 8; worst 2.0000 at ")
    assert said[1].startswith("MISSED: x1.0 the fastest peer at batch 1; worst 0.7500 at ")
    assert said[2] == "not measured: 60 % of the roofline at batch 64"
    assert said[3].startswith("met: cos >= 0.999 in INT8; worst 0.9995")
    assert said[4].startswith("MISSED: relative L1 <= 0.064 in INT8; worst 0.0700")
    assert said[5] == "not measured: cos >= 0.9999 with P in FP16"


def test_activations_of_a_trained_vit_from_a_file(benchmark: ModuleType, tmp_path: Path) -> None:
    np.savez(tmp_path / "acts.npz", num_heads=3, block0=np.ones((2, 5, 3 * 3 * 8)))
    ((shape, qkv),) = benchmark.trained(tmp_path / "acts.npz")
    assert (shape.heads, shape.head_dim, shape.tokens, shape.batch) == (3, 8, 5, 2)
    assert qkv.dtype == np.float32


def test_activations_of_the_digits_vit(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of an untrained one here: training takes a minute, and is tested with the demo."""
    digits = pytest.importorskip("vitc.demo.digits")
    monkeypatch.setattr(digits, "train", lambda _: digits.DigitsViT().eval())
    layers = list(benchmark.digits_vit())
    assert [shape.model for shape, _ in layers] == [f"digits.{i}" for i in range(4)]
    for shape, qkv in layers:
        assert qkv.shape == (shape.batch, shape.tokens, 3 * shape.heads * shape.head_dim) == (64, 17, 192)


class FakeRuntime:
    def __init__(self, validity: str) -> None:
        self.validity = validity

    def get_engine_validity(self, plan: bytes) -> tuple[Any, int]:
        return SimpleNamespace(name=self.validity), 5


def test_what_tensorrt_rtx_refuses_is_the_result(benchmark: ModuleType) -> None:
    rtx = benchmark.rtx_vit

    def refuse(*_: Any) -> Any:
        raise BuildError("no kernel for SM 9.0")

    built = rtx.attempt(refuse, lambda: FakeRuntime("VALID"), refuse)
    assert "refused at build (validity not asked): no kernel for SM 9.0" in built.text()
    invalid = rtx.attempt(lambda: b"plan", lambda: FakeRuntime("INVALID"), refuse)
    assert "refused at validity (INVALID): diagnostics 0x5" in invalid.text()
    ran = rtx.attempt(lambda: b"plan", lambda: FakeRuntime("SUBOPTIMAL"), refuse)
    assert "refused at run (SUBOPTIMAL): no kernel for SM 9.0" in ran.text()


def test_a_plan_that_runs_is_timed(benchmark: ModuleType) -> None:
    done = benchmark.rtx_vit.attempt(lambda: b"plan", lambda: FakeRuntime("VALID"), lambda *_: (0.001, 0.002, 0.999))
    assert done.text().endswith("VALID, 1.000 ms a call, torch.compile in FP16 2.000 ms (x2.00), cos 0.99900")
