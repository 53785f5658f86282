"""Lines that things pass and zones they are in. Only what has an id is counted, and an id once per passing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vitc.errors import InputError
from vitc.video.boxes import Detections

Point = tuple[float, float]

# The middle of a box trembles: so near to a line, in shares of the box's smaller side, it is on neither side.
_TREMBLE = 0.05


@dataclass(frozen=True)
class Line:
    """From `start` to `end`, in shares of the picture's width and height. Whoever walks from start to end has what
    passes 'in' going to the left hand and what passes 'out' going to the right: over a line from top to bottom, 'in'
    is to the picture's right."""

    name: str
    start: Point
    end: Point


@dataclass(frozen=True)
class Zone:
    """The inside of a polygon, its corners in shares of the picture's width and height."""

    name: str
    corners: tuple[Point, ...]


@dataclass(frozen=True)
class Event:
    """Something passed a line ('in', 'out'), or 'entered' or 'left' a zone."""

    what: str
    place: str
    id: int
    label: int


@dataclass
class LineCount:
    """How many of each label (by number) passed each way."""

    inward: Counter[int] = field(default_factory=Counter)
    outward: Counter[int] = field(default_factory=Counter)


@dataclass
class ZoneCount:
    """How many of each label are inside now, and how many ever entered."""

    inside: Counter[int] = field(default_factory=Counter)
    entered: Counter[int] = field(default_factory=Counter)


class Counting:
    """Counts for one source. `forget`: seconds after which an id that is not seen any more is let go."""

    def __init__(self, lines: Sequence[Line] = (), zones: Sequence[Zone] = (), forget: float = 10.0) -> None:
        names = [*(line.name for line in lines), *(zone.name for zone in zones)]
        doubles = sorted({name for name in names if names.count(name) > 1})
        if doubles:
            raise InputError(f"two lines or zones have the same name: {', '.join(doubles)}")
        self._lines, self._zones, self._forget = lines, zones, forget
        self.lines = {line.name: LineCount() for line in lines}
        self.zones = {zone.name: ZoneCount() for zone in zones}
        # Per line or zone and id: the last point that was surely on a side, the side, and when it was seen.
        self._last: dict[tuple[str, int], tuple[Point, bool, float]] = {}

    def __call__(self, found: Detections, size: tuple[int, int], time: float) -> list[Event]:
        """What happened in this picture of (width, height) `size`, at `time` seconds."""
        events: list[Event] = []
        for zone in self._zones:
            self.zones[zone.name].inside = Counter()
        for i in np.flatnonzero(found.ids >= 0):
            x0, y0, x1, y1 = found.boxes[i].tolist()
            point = (x0 + x1) / 2, (y0 + y1) / 2
            margin = _TREMBLE * min(x1 - x0, y1 - y0)
            who = int(found.ids[i]), int(found.labels[i])
            for line in self._lines:
                events += self._pass(line, who, point, margin, size, time)
            for zone in self._zones:
                events += self._enter(zone, who, point, size, time)
        self._last = {key: last for key, last in self._last.items() if time - last[2] <= self._forget}
        return events

    def _pass(
        self, line: Line, who: tuple[int, int], point: Point, margin: float, size: tuple[int, int], time: float
    ) -> Iterator[Event]:
        start, end = _pixels(line.start, size), _pixels(line.end, size)
        key = line.name, who[0]
        before = self._last.get(key)
        distance = _side(start, end, point) / max(1e-9, float(np.hypot(end[0] - start[0], end[1] - start[1])))
        if before is not None and abs(distance) <= margin:
            self._last[key] = (before[0], before[1], time)
            return
        left = distance < 0
        self._last[key] = (point, left, time)
        if before is None or before[1] == left or not _between(start, end, before[0], point):
            return
        count = self.lines[line.name]
        (count.inward if left else count.outward)[who[1]] += 1
        yield Event("in" if left else "out", line.name, *who)

    def _enter(
        self, zone: Zone, who: tuple[int, int], point: Point, size: tuple[int, int], time: float
    ) -> Iterator[Event]:
        inside = _inside([_pixels(corner, size) for corner in zone.corners], point)
        key = zone.name, who[0]
        before = self._last.get(key)
        self._last[key] = (point, inside, time)
        count = self.zones[zone.name]
        if inside:
            count.inside[who[1]] += 1
        if inside and (before is None or not before[1]):
            count.entered[who[1]] += 1
            yield Event("entered", zone.name, *who)
        elif not inside and before is not None and before[1]:
            yield Event("left", zone.name, *who)

    def to_dict(self, names: Any) -> dict[str, Any]:
        """Plain data; `names(number)` gives a label's name."""

        def named(counts: Counter[int]) -> dict[str, int]:
            return {names(number): n for number, n in sorted(counts.items()) if n}

        return {
            "lines": {k: {"in": named(c.inward), "out": named(c.outward)} for k, c in self.lines.items()},
            "zones": {k: {"inside": named(c.inside), "entered": named(c.entered)} for k, c in self.zones.items()},
        }


def parse_line(text: str) -> Line:
    """`x0,y0,x1,y1` or `name=x0,y0,x1,y1`, in shares of width and height. InputError for anything else."""
    name, corners = _parsed(text, "line")
    if len(corners) != 2 or corners[0] == corners[1]:
        raise InputError(f"--line takes name=x0,y0,x1,y1 with two different points, got {text!r}")
    return Line(name, *corners)


def parse_zone(text: str) -> Zone:
    """`x0,y0,x1,y1,x2,y2…` or `name=…`, three corners or more, in shares of width and height."""
    name, corners = _parsed(text, "zone")
    if len(corners) < 3:
        raise InputError(f"--zone takes name=x0,y0,x1,y1,x2,y2,… with three corners or more, got {text!r}")
    return Zone(name, tuple(corners))


def _parsed(text: str, kind: str) -> tuple[str, list[Point]]:
    name, _, numbers = text.rpartition("=")
    try:
        values = [float(v) for v in numbers.split(",")]
    except ValueError:
        values = []
    if not values or len(values) % 2 or not all(0.0 <= v <= 1.0 for v in values):
        raise InputError(
            f"--{kind} takes numbers from 0 to 1, shares of the width and the height, as name=0.5,0,0.5,1; got {text!r}"
        )
    return name or kind, list(zip(values[::2], values[1::2], strict=True))


def _pixels(point: Point, size: tuple[int, int]) -> Point:
    return point[0] * size[0], point[1] * size[1]


def _side(a: Point, b: Point, p: Point) -> float:
    """Greater than 0 to the right hand of who walks from a to b, the y axis pointing down."""
    return (b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0])


def _between(a: Point, b: Point, p: Point, q: Point) -> bool:
    """Whether the way from p to q meets the line at or between its ends; it is known to change sides."""
    return _side(p, q, a) * _side(p, q, b) <= 0


def _inside(corners: Sequence[Point], p: Point) -> bool:
    """Even-odd rule."""
    inside = False
    for (x0, y0), (x1, y1) in zip(corners, (*corners[1:], corners[0]), strict=True):
        if (y0 > p[1]) != (y1 > p[1]) and p[0] < x0 + (p[1] - y0) / (y1 - y0) * (x1 - x0):
            inside = not inside
    return inside
