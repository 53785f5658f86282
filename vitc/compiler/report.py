"""What a compilation did: passes, sizes, accuracy, time, and what was skipped and how to get it."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vitc.compiler.attention_choice import AttentionChoice
from vitc.compiler.attention_choice import lines as attention_lines
from vitc.cost.prediction import BlockPrediction, block_lines
from vitc.explorer.report_page import report_page
from vitc.graph.program import JournalEntry
from vitc.mixed.records import Ledger


@dataclass(frozen=True)
class Report:
    """All figures are for batch 1 unless named otherwise; None: not measured or not known."""

    target: str
    pipeline: str
    journal: tuple[JournalEntry, ...]
    parameters: int
    weight_bytes_before: int
    weight_bytes_after: int
    flops: int
    attentions: tuple[AttentionChoice, ...]
    predicted_ms: float | None = None
    predicted_blocks: tuple[BlockPrediction, ...] = ()
    lint: str | None = None
    engine: str | None = None
    measured_ms: dict[str, float] = field(default_factory=dict)
    agreement: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    decisions: tuple[str, ...] = ()
    pruning: tuple[str, ...] = ()
    calibration: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    ledger: Ledger | None = None

    def __call__(self) -> Report:
        """The spelling of 0.1, `compiled.report()`; goes with 0.3."""
        warnings.warn("report is no longer called: write compiled.report", DeprecationWarning, stacklevel=2)
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    def html(self, path: str | Path, title: str = "") -> Path:
        """Writes the report as one page: tables, bars, what was skipped, how to make it again. `title`: the file's name
        where none is given."""
        path = Path(path)
        path.write_text(report_page(self.to_dict(), title or path.stem), encoding="utf-8")
        return path

    def __str__(self) -> str:
        return self.text()

    def text(self) -> str:
        """The report as lines of text."""
        lines = [f"WARNING   {text}" for text in self.warnings]
        lines += [
            f"target    {self.target}",
            f"pipeline  {self.pipeline}",
            f"weights   {self.weight_bytes_before / 1e6:.1f} MB → {self.weight_bytes_after / 1e6:.1f} MB, "
            f"{self.parameters / 1e6:.2f} M parameters",
            f"work      {self.flops / 1e9:.2f} GFLOP an image",
        ]
        if self.predicted_ms is not None:
            lines.append(f"predicted {self.predicted_ms:.2f} ms on {self.target} (cost model, batch 1, not measured)")
            lines += [f"  {line}" for line in block_lines(self.predicted_blocks)]
        lines += [f"measured  {name}: {ms:.1f} ms here" for name, ms in self.measured_ms.items()]
        lines += [f"agreement {name}: {value:.6f}" for name, value in self.agreement.items()]
        if self.engine:
            lines.append(f"engine    {self.engine}")
        if self.lint:
            lines.append(f"lint      {self.lint}")
        lines += [f"decision  {text}" for text in self.decisions]
        lines += [f"skipped   {text}" for text in self.skipped]
        if self.ledger is not None:
            lines.append(f"ledger    {self.ledger.text()}")
        lines.append("passes")
        for entry in self.journal:
            lines.append(f"  {entry.pass_text:<32} {entry.counts} nodes, {entry.seconds:.2f} s")
            lines += [f"      {note}" for note in entry.notes]
        if self.calibration:
            lines += ["calibration", *(f"  {line}" for line in self.calibration)]
        if self.pruning:
            lines += ["pruning", *(f"  {line}" for line in self.pruning)]
        if self.attentions:
            lines += ["attention", *(f"  {line}" for line in attention_lines(self.attentions))]
        return "\n".join(lines)
