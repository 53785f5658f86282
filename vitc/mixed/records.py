"""Sensitivities and ledgers as data, text and pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class SensitivityRow:
    """What INT8 in one block, or one layer, alone does.

    name:      the block's or layer's module path.
    sqnr_db:   signal over noise of the outputs against floating point, in dB.
    kl:        KL divergence of the class probabilities, in nats; None where the outputs are no classes.
    agreement: share of images with the same top class; None likewise.
    score:     what the user's function says of the model; None where it was not asked.
    saved_ms:  predicted ms that INT8 saves there; None where the target has no prediction.
    """

    name: str
    sqnr_db: float
    kl: float | None
    agreement: float | None
    score: float | None
    saved_ms: float | None


@dataclass(frozen=True)
class Sensitivity:
    """What INT8 costs, block by block.

    target:   the target's name.
    images:   how many calibration images were looked at.
    rows:     one for each block, in the order of the model.
    together: all of them in INT8.
    score:    the user's score of floating point.
    """

    target: str
    images: int
    rows: tuple[SensitivityRow, ...]
    together: SensitivityRow
    score: float | None = None

    @property
    def added_db(self) -> float:
        """SQNR if the noise of the places just added up, as it does for independent errors. Where that of all of them
        together is far lower, layers make each other's errors worse."""
        noise = sum(10 ** (-r.sqnr_db / 10) for r in self.rows)
        return -10 * math.log10(noise) if noise else math.inf

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self) | {"added_db": self.added_db}

    def __str__(self) -> str:
        return self.text()

    def text(self) -> str:
        """A table, with a bar for the noise: longer is worse."""
        lines = [f"INT8 in one place at a time, target {self.target}, {self.images} images"]
        header = ("", "SQNR dB", "KL", "same class", "score", "saves ms", "noise")
        noise = [10 ** (-r.sqnr_db / 10) for r in self.rows]
        bars = ["█" * round(24 * n / (max(noise) or 1.0)) for n in noise]
        cells = [
            header,
            *((*_cells(r), bar) for r, bar in zip(self.rows, bars, strict=True)),
            (*_cells(self.together), ""),
        ]
        widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
        for first, *middle, last in cells:
            figures = (text.rjust(width) for text, width in zip(middle, widths[1:-1], strict=True))
            lines.append("  ".join([first.ljust(widths[0]), *figures, last]).rstrip())
        together = f"{self.together.sqnr_db:.1f} dB"
        lines.append(
            f"across layers: the noise of each alone adds up to {self.added_db:.1f} dB, all together have {together}"
        )
        if self.score is not None:
            lines.append(f"score in floating point {self.score:.4f}")
        return "\n".join(lines)

    def save_svg(self, path: str | Path) -> None:
        """The noise that each block adds, as bars."""
        noise = [10 ** (-r.sqnr_db / 10) for r in self.rows]
        height, left, width = 18, 170, 460
        parts = []
        for i, (row, value) in enumerate(zip(self.rows, noise, strict=True)):
            y, length = 40 + i * height, width * value / (max(noise) or 1.0)
            parts.append(f'<text x="{left - 8}" y="{y + 12}" text-anchor="end">{escape(row.name)}</text>')
            parts.append(f'<rect x="{left}" y="{y + 2}" width="{length:.1f}" height="{height - 4}" fill="#4878a8"/>')
            parts.append(f'<text x="{left + length + 5:.1f}" y="{y + 12}">{row.sqnr_db:.1f} dB</text>')
        title = f"noise of INT8 in one place at a time, target {escape(self.target)}"
        Path(path).write_text(
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 80}" height="{50 + height * len(noise)}" '
            f'font-family="sans-serif" font-size="12"><text x="{left}" y="22">{title}</text>{"".join(parts)}</svg>\n',
            encoding="utf-8",
        )


@dataclass(frozen=True)
class LedgerEntry:
    """What was decided for one block, and why. All figures are of INT8 there alone, on calibration images.

    block:        the block's module path.
    choice:       what it computes with.
    sqnr_db:      signal over noise of the outputs, in dB.
    agreement:    share of images with the same top class; None where the outputs are no classes.
    score_change: change of the user's score; None where it was not asked for.
    saved_ms:     ms that INT8 saves; None where the target has no prediction.
    reason:       why, as a sentence.
    """

    block: str
    choice: str
    sqnr_db: float
    agreement: float | None
    score_change: float | None
    saved_ms: float | None
    reason: str


@dataclass(frozen=True)
class Ledger:
    """The decisions of a budget search.

    entries: one for each block.
    trials:  (mix, score), in the order in which the scores were seen.
    verdict: what came of it, as a sentence.
    """

    entries: tuple[LedgerEntry, ...]
    trials: tuple[tuple[str, float], ...]
    verdict: str

    def text(self) -> str:
        width = max((len(e.block) for e in self.entries), default=0)
        lines = [self.verdict]
        for e in self.entries:
            same = "" if e.agreement is None else f", {e.agreement:7.2%} same class"
            score = "" if e.score_change is None else f", score {e.score_change:+.4f}"
            ms = "" if e.saved_ms is None else f", {e.saved_ms:+.3f} ms saved"
            lines.append(f"  {e.block:<{width}}  {e.choice:<16} alone {e.sqnr_db:5.1f} dB{same}{score}{ms}: {e.reason}")
        if self.entries and all(e.saved_ms is None for e in self.entries):
            lines.append(
                "  no milliseconds, noise decided: the target has no figures to predict from, or no CPU engine is here"
            )
        lines += [f"  tried: {mix}: {score:.4f}" for mix, score in self.trials]
        return "\n".join(lines)


def _cells(row: SensitivityRow) -> Sequence[str]:
    def show(value: float | None, form: str) -> str:
        return "–" if value is None else format(value, form)

    return (
        row.name, f"{row.sqnr_db:.1f}", show(row.kl, ".2e"), show(row.agreement, ".2%"), show(row.score, ".4f"),
        show(row.saved_ms, "+.3f"),
    )  # fmt: skip
