"""How near an output is to its golden one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vitc.bundle import Tolerance
from vitc.lowering.cpu.engine import Array


@dataclass(frozen=True)
class CheckRow:
    """One output of one golden pair. `detail` says what is wrong where a number can't."""

    pair: int
    output: str
    cosine: float
    relative: float
    passed: bool
    detail: str = ""


@dataclass(frozen=True)
class CheckReport:
    """The self-check of a bundle on one engine."""

    engine: str
    tolerance: Tolerance
    rows: tuple[CheckRow, ...]

    @property
    def passed(self) -> bool:
        return all(row.passed for row in self.rows)

    def __str__(self) -> str:
        lines = [
            f"self-check on {self.engine}: {'passed' if self.passed else 'FAILED'} "
            f"(needs cosine >= {self.tolerance.cosine:g}, relative error <= {self.tolerance.relative:g})"
        ]
        lines += [
            f"  {'ok  ' if row.passed else 'FAIL'} pair {row.pair} {row.output}: cosine {row.cosine:.6f}, "
            f"relative error {row.relative:.2e}{'; ' + row.detail if row.detail else ''}"
            for row in self.rows
        ]
        return "\n".join(lines)


def compare(pair: int, name: str, got: Array, golden: Array, tolerance: Tolerance) -> CheckRow:
    """One output against its golden one, in FP64. A wrong shape, dtype or a NaN fails, whatever the
    tolerance.
    """
    nan = float("nan")
    if got.shape != golden.shape or got.dtype != golden.dtype:
        detail = f"is {got.dtype} {list(got.shape)}, golden is {golden.dtype} {list(golden.shape)}"
        return CheckRow(pair, name, nan, nan, False, detail)
    a, b = got.astype(np.float64).ravel(), golden.astype(np.float64).ravel()
    bad = int(a.size - np.isfinite(a).sum())
    if bad:
        return CheckRow(pair, name, nan, nan, False, f"{bad} of {a.size} values are NaN or infinite")
    cosine, relative = _distance(a, b)
    return CheckRow(pair, name, cosine, relative, cosine >= tolerance.cosine and relative <= tolerance.relative)


def _distance(a: Array, b: Array) -> tuple[float, float]:
    """Cosine similarity, and the L2 norm of the difference over that of `b`. Two zero vectors agree."""
    size_a, size_b = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    if size_b == 0.0:
        return (1.0, 0.0) if size_a == 0.0 else (0.0, float("inf"))
    cosine = float(a @ b) / (size_a * size_b) if size_a > 0.0 else 0.0
    return cosine, float(np.linalg.norm(a - b)) / size_b
