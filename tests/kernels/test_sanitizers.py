"""The played kernel under AddressSanitizer and UndefinedBehaviorSanitizer: clean as it is, caught when it errs.

The machine itself watches shared and global memory; the sanitizers add what it can't see: the kernel's registers
(arrays on a fiber's stack), overflowing integers, shifts, and the machine's own code.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vitc.kernels import harness, reference
from vitc.kernels.fields import AttentionFields
from vitc.kernels.harness import Harness
from vitc.kernels.variants import Tile, variant_of

TILE = Tile(32, 32, 2)
INT8_WITH_BIAS = AttentionFields("packed", 1, 64, 0.125, 1, 32, 32, "int8", 0.02, 0.02, 0.02, 0.005)
INT8_HALF_PV = dataclasses.replace(INT8_WITH_BIAS, pv="fp16", head_dim=80, out_scale=0.0, has_bias=0)
HALF = dataclasses.replace(INT8_HALF_PV, head_dim=72, q_scale=0.0, k_scale=0.0, v_scale=0.0, out_scale=0.005)
ALL = [INT8_WITH_BIAS, INT8_HALF_PV, HALF]


def play(sources: Path, nodes: list[AttentionFields]) -> None:
    """What the sanitized process does: plays the nodes and compares them with the reference."""
    machine = Harness([variant_of(f, TILE) for f in nodes], cuda_sources=sources, sanitize=True)
    for fields in nodes:
        rng = np.random.default_rng(0)
        x = rng.integers(-128, 128, (2, 70, 3 * fields.head_dim)).astype(np.int8)
        x[:, 5] = 0
        inputs = [x if fields.int8_in else (x / 40).astype(np.float16)]
        if fields.has_bias:
            inputs.append(rng.normal(size=(2, 1, 70, 70)).astype(np.float16))
        out = machine.run(fields, inputs, TILE).out.astype(np.float32)
        difference = np.abs(out - reference.attention(fields, inputs).astype(np.float32)).max()
        assert difference <= 1, difference
    print("clean")


def run_sanitized(sources: Path, nodes: list[AttentionFields]) -> subprocess.CompletedProcess[str]:
    compiler = harness.host_compiler()
    found = subprocess.run(
        [compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not Path(found).is_absolute():
        pytest.skip(f"{compiler} has no libasan.so: AddressSanitizer is not installed")
    variants = [variant_of(f, TILE) for f in nodes]
    harness.build(variants, arch=870, cuda_sources=sources, sanitize=True, cache=harness.default_cache())
    environment = {
        **os.environ,
        "LD_PRELOAD": found,
        "ASAN_OPTIONS": "detect_leaks=0",  # Python itself keeps what it allocates
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
    }
    return subprocess.run(
        [sys.executable, __file__, str(sources), *(str(ALL.index(f)) for f in nodes)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_the_kernel_and_the_machine_are_clean() -> None:
    done = run_sanitized(harness.CUDA_SOURCES, ALL)
    assert done.stdout.strip() == "clean", done.stderr[-3000:]
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("text", "instead", "message"),
    [
        (
            "scores[t][i / 4][i % 4] = kNegativeInfinity;",
            "scores[t][i / 4 + 1][i % 4] = kNegativeInfinity;",
            "index 4 out of bounds",
        ),
        (
            "store_global(reinterpret_cast<uint4*>(to), piece);",
            "*reinterpret_cast<uint4*>(to + row_bytes) = piece;",
            "heap-buffer-overflow",
        ),
    ],
    ids=["register index", "a write that the machine does not see"],
)
def test_planted_faults_are_found(tmp_path: Path, text: str, instead: str, message: str) -> None:
    copy = tmp_path / "cuda"
    shutil.copytree(harness.CUDA_SOURCES, copy)
    source = (copy / "attention.cuh").read_text(encoding="utf-8")
    assert source.count(text) == 1
    (copy / "attention.cuh").write_text(source.replace(text, instead), encoding="utf-8")
    done = run_sanitized(copy, [INT8_WITH_BIAS])
    assert done.returncode != 0
    assert message in done.stderr


if __name__ == "__main__":
    play(Path(sys.argv[1]), [ALL[int(i)] for i in sys.argv[2:]])
