"""What calibration finds, by the name of the node it was found at: with it a build can be repeated without the data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def _table() -> Any:
    return field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True)
class Smoothed:
    """Factors that make the channels of x alike: (x − shift) / scale."""

    shift: Tensor
    """[C], in x's units."""
    scale: Tensor
    """[C] > 0; all 1 where x is better as it is."""

    @property
    def kept(self) -> bool:
        """Whether it changes anything."""
        return bool((self.scale != 1).any())


@dataclass(frozen=True)
class Findings:
    """Tables by node name; each is empty where no pass asked."""

    ranges: Mapping[str, float] = _table()
    """The magnitude that INT8's 127 stands for, of each tensor with a scale. q, k and v of a packed tensor x have one
    each: x/q, x/k, x/v."""
    peaks: Mapping[str, float] = _table()
    """The largest magnitude seen of every floating-point tensor; NaN or infinite where such a value was seen."""
    means: Mapping[str, Tensor] = _table()
    """[C]: the mean of each channel of what linears read."""
    roundings: Mapping[str, Tensor] = _table()
    """[O, C]: how far a linear's INT8 weights are from the nearest integers, in steps."""
    smoothing: Mapping[str, Smoothed] = _table()
    """Of the output of a LayerNorm or an attention, which linears read."""
    score_smoothing: Mapping[str, Smoothed] = _table()
    """Of an attention's q, and inversely of its k; the shift is k's."""

    def with_more(self, other: Findings) -> Findings:
        """These and others; where both know a name, the other's."""
        return Findings(**{f.name: _joined(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)})

    def __bool__(self) -> bool:
        return any(getattr(self, f.name) for f in fields(self))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, tables that are empty left out. Of a rounding only how many weights it moved: the
        model's integers have taken it in. A number that JSON has not is its name ('inf')."""
        tables: dict[str, dict[str, Any]] = {
            "ranges": {name: _number(value) for name, value in self.ranges.items()},
            "peaks": {name: _number(value) for name, value in self.peaks.items()},
            "means": {name: _numbers(mean) for name, mean in self.means.items()},
            "roundings": {n: {"moved": int(t.count_nonzero()), "of": t.numel()} for n, t in self.roundings.items()},
            "smoothing": _factors(self.smoothing),
            "score_smoothing": _factors(self.score_smoothing),
        }
        return {name: table for name, table in tables.items() if table}

    def lines(self) -> tuple[str, ...]:
        """A line for each table, as the report has it."""
        lines = []
        if self.ranges:
            lines.append(f"{len(self.ranges)} ranges for INT8, {_span(self.ranges)}")
        if self.peaks:
            lines.append(f"{len(self.peaks)} peaks, {_span(self.peaks)}")
        if self.means:
            lines.append(f"{len(self.means)} means of what linears read")
        if self.roundings:
            moved = sum(int(t.count_nonzero()) for t in self.roundings.values())
            total = sum(t.numel() for t in self.roundings.values())
            lines.append(f"{len(self.roundings)} roundings, {moved / total:.1%} of the weights not to the nearest")
        for table, where in ((self.smoothing, "outputs"), (self.score_smoothing, "pairs of q and k")):
            if table:
                lines.append(f"{sum(s.kept for s in table.values())} of {len(table)} {where} smoothed")
        return tuple(lines)

    def __str__(self) -> str:
        """A line for each tensor: its range, and its peak where it is known."""
        names = sorted({*self.ranges, *self.peaks})
        width = max(map(len, names), default=0)
        rows = [
            f"{n:<{width}}  {_cell('range', self.ranges.get(n))}  {_cell('peak', self.peaks.get(n))}" for n in names
        ]
        return "\n".join((*self.lines(), *(row.rstrip() for row in rows)))


def _joined(first: Mapping[str, T], second: Mapping[str, T]) -> Mapping[str, T]:
    return MappingProxyType({**first, **second})


def _factors(table: Mapping[str, Smoothed]) -> dict[str, Any]:
    return {n: {"shift": _numbers(s.shift), "scale": _numbers(s.scale)} for n, s in table.items() if s.kept}


def _numbers(tensor: Tensor) -> list[float | str]:
    return [_number(value) for value in tensor.to(torch.float64).flatten().tolist()]


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _span(table: Mapping[str, float]) -> str:
    least, most = min(table, key=table.__getitem__), max(table, key=table.__getitem__)
    return f"from {table[least]:.4g} ({least}) to {table[most]:.4g} ({most})"


def _cell(what: str, value: float | None) -> str:
    return f"{what} {value:<10.4g}" if value is not None else " " * (len(what) + 11)
