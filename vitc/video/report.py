"""One record per run: where the time went, what was dropped, what was counted, what it took from the rails."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vitc.runtime.energy import Energy

STAGES = ("decode", "prepare", "engine", "boxes", "sinks")


@dataclass(frozen=True)
class Times:
    """Milliseconds."""

    p50: float
    p95: float
    p99: float
    mean: float


@dataclass(frozen=True)
class SourceReport:
    """What one source gave. `decoded` = `shown` + `dropped` + what was under way when the run was stopped (`unseen`).
    `late`: shown, but older than two periods of the source. `damaged`, `cuts`, `returns`: see SourceFacts."""

    name: str
    decoded: int
    shown: int
    dropped: int
    unseen: int
    late: int
    damaged: int
    cuts: int
    returns: int
    counts: Mapping[str, Any]


@dataclass(frozen=True)
class RunReport:
    """`stages`: name -> times per picture (per batch for prepare and engine). `end_to_end`: from decoded to shown.
    `timeline`: up to 240 means of the end-to-end time in ms, in order. `ap`, `ap50`: where there was truth."""

    bundle: str
    engine: str
    precision: str
    machine: str
    seconds: float
    frames: int
    fps: float
    batch: float
    stages: Mapping[str, Times]
    end_to_end: Times
    sources: tuple[SourceReport, ...]
    energy: Energy
    timeline: tuple[float, ...] = ()
    ap: float | None = None
    ap50: float | None = None
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def dropped(self) -> int:
        return sum(source.dropped for source in self.sources)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "joules_per_frame": self.energy.joules_per(self.frames)}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1)

    def __str__(self) -> str:
        total = self.end_to_end
        lines = [
            f"{self.frames} frames in {self.seconds:.1f} s: {self.fps:.1f} FPS, mean batch {self.batch:.1f}",
            f"end to end  p50 {total.p50:.1f} ms, p95 {total.p95:.1f}, p99 {total.p99:.1f}",
        ]
        for name, times in self.stages.items():
            lines.append(f"  {name:<8}  p50 {times.p50:.1f} ms, p95 {times.p95:.1f}, p99 {times.p99:.1f}")
        for source in self.sources:
            text = f"{source.name}: {source.shown} of {source.decoded} shown, {source.dropped} dropped"
            for word in ("unseen", "late", "damaged", "cuts", "returns"):
                if getattr(source, word):
                    text += f", {getattr(source, word)} {word}"
            lines.append(text)
            for name, count in source.counts.get("lines", {}).items():
                lines.append(f"  {name}: in {_named(count['in'])}; out {_named(count['out'])}")
            for name, count in source.counts.get("zones", {}).items():
                lines.append(f"  {name}: entered {_named(count['entered'])}; inside now {_named(count['inside'])}")
        if self.ap is not None and self.ap50 is not None:
            lines.append(f"AP {self.ap:.3f}, AP50 {self.ap50:.3f}")
        lines.append(f"power       {self._power()}")
        lines.append(f"engine      {self.engine}, {self.precision}; {self.machine}")
        return "\n".join(lines)

    def _power(self) -> str:
        if self.energy.watts is None:
            return f"not measurable here: {self.energy.reason}"
        joules = self.energy.joules_per(self.frames)
        rails = [f"{name} {w:.2f} W, {joules.get(name, 0.0):.3f} J/frame" for name, w in self.energy.watts.items()]
        mode = f"; power mode {self.energy.mode}" if self.energy.mode else ""
        return "; ".join(rails) + mode + (f"; {self.energy.reason}" if self.energy.reason else "")

    def save(self, path: Path) -> None:
        """As .json, as .svg (a picture), or as text."""
        content = {".json": self.to_json, ".svg": self.to_svg}.get(path.suffix, self.__str__)()
        path.write_text(content + "\n")

    def to_svg(self) -> str:
        """A picture: the end-to-end time over the run, and where it went."""
        width, height, left = 720, 250, 60
        top = max([*self.timeline, self.end_to_end.p99, 1e-3]) * 1.1
        step = (width - left - 20) / max(1, len(self.timeline) - 1)

        def y(ms: float) -> float:
            return 150 - 110 * ms / top

        points = " ".join(f"{left + i * step:.1f},{y(ms):.1f}" for i, ms in enumerate(self.timeline))
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
            'font-size="12"><rect width="100%" height="100%" fill="white"/>',
            f'<text x="{left}" y="20">{html.escape(self.bundle)}: {self.fps:.1f} FPS; end to end, ms</text>',
            f'<polyline points="{points}" fill="none" stroke="#1f6fb2" stroke-width="1.5"/>',
        ]
        for name, ms in (("p50", self.end_to_end.p50), ("p99", self.end_to_end.p99)):
            parts.append(
                f'<line x1="{left}" x2="{width - 20}" y1="{y(ms):.1f}" y2="{y(ms):.1f}" stroke="#999" '
                f'stroke-dasharray="4"/><text x="4" y="{y(ms) + 4:.1f}">{name} {ms:.0f}</text>'
            )
        total = sum(times.mean for times in self.stages.values()) or 1.0
        x = float(left)
        for times, color in zip(self.stages.values(), _COLORS, strict=True):
            share = (width - left - 20) * times.mean / total
            parts.append(f'<rect x="{x:.1f}" y="180" width="{share:.1f}" height="24" fill="{color}"/>')
            x += share
        for i, ((name, times), color) in enumerate(zip(self.stages.items(), _COLORS, strict=True)):
            at = left + i * 128
            parts.append(
                f'<rect x="{at}" y="218" width="10" height="10" fill="{color}"/>'
                f'<text x="{at + 14}" y="227">{name} {times.mean:.1f} ms</text>'
            )
        return "".join([*parts, "</svg>"])


_COLORS = ("#8da0cb", "#66c2a5", "#fc8d62", "#e78ac3", "#a6d854")


def _named(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {label}" for label, n in counts.items()) or "0"
