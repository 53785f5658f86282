"""Lines and zones: every passing once, no id no count, trembling on the line, texts."""

from __future__ import annotations

import numpy as np
import pytest

from vitc.errors import InputError
from vitc.video.boxes import Detections, detections
from vitc.video.count import Counting, Line, Zone, parse_line, parse_zone

SIZE = (200, 100)
DOWN = Line("gate", (0.5, 0.0), (0.5, 1.0))


def _at(*points: tuple[float, float], ids: list[int] | None = None) -> Detections:
    boxes = np.array([[x - 10, y - 10, x + 10, y + 10] for x, y in points], np.float32).reshape(-1, 4)
    count = len(points)
    chosen = np.arange(1, count + 1) if ids is None else np.array(ids)
    return detections(boxes, np.ones(count, np.float32), np.zeros(count, np.int64), chosen)


def _run(counting: Counting, xs: list[float], i: int = 1, y: float = 50) -> list[str]:
    return [e.what for t, x in enumerate(xs) for e in counting(_at((x, y), ids=[i]), SIZE, t / 10)]


def test_in_is_to_the_left_hand_of_who_walks_along_the_line() -> None:
    counting = Counting([DOWN])
    assert _run(counting, [60, 90, 120, 150]) == ["in"]
    assert _run(counting, [150, 120, 90, 60], i=2) == ["out"]
    assert counting.to_dict(str)["lines"] == {"gate": {"in": {"0": 1}, "out": {"0": 1}}}


def test_a_thing_that_trembles_on_the_line_passes_once() -> None:
    assert _run(Counting([DOWN]), [60, 95, 99.5, 100.5, 99.6, 100.4, 99.8, 110, 140]) == ["in"]


def test_there_and_back_is_a_passing_each() -> None:
    assert _run(Counting([DOWN]), [60, 140, 60, 140]) == ["in", "out", "in"]


def test_without_an_id_nothing_is_counted() -> None:
    assert _run(Counting([DOWN], [Zone("all", ((0, 0), (1, 0), (1, 1), (0, 1)))]), [60, 140, 60], i=-1) == []


def test_beside_the_ends_of_a_line_nothing_passes_it() -> None:
    short = Line("gate", (0.5, 0.0), (0.5, 0.3))
    assert _run(Counting([short]), [60, 140]) == []
    assert _run(Counting([short]), [60, 140], y=20) == ["in"]


def test_a_thing_hidden_on_the_line_is_counted_when_it_is_seen_again() -> None:
    counting = Counting([DOWN])
    counting(_at((60, 50)), SIZE, 0.0)
    counting(_at(), SIZE, 0.1)
    assert [e.what for e in counting(_at((140, 50)), SIZE, 0.2)] == ["in"]


def test_a_zone_knows_who_is_inside_and_who_ever_entered() -> None:
    counting = Counting(zones=[Zone("box", ((0.25, 0.2), (0.75, 0.2), (0.75, 0.8), (0.25, 0.8)))])
    assert _run(counting, [10, 60, 100, 160, 100]) == ["entered", "left", "entered"]
    assert counting.to_dict(str)["zones"] == {"box": {"inside": {"0": 1}, "entered": {"0": 2}}}


def test_what_is_not_seen_for_long_is_forgotten() -> None:
    counting = Counting([DOWN], forget=1.0)
    for i in range(1000):
        counting(_at((60, 50), ids=[i]), SIZE, i / 10)
    assert len(counting._last) <= 12


def test_texts() -> None:
    assert parse_line("0.5,0,0.5,1") == Line("line", (0.5, 0.0), (0.5, 1.0))
    assert parse_line("gate=0,0.5,1,0.5") == Line("gate", (0.0, 0.5), (1.0, 0.5))
    assert parse_zone("z=0,0,1,0,1,1") == Zone("z", ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: parse_line("a=0,0,1"), "--line takes numbers from 0 to 1"),
        (lambda: parse_line("a=0,0,640,0"), "--line takes numbers from 0 to 1"),
        (lambda: parse_line("a=x"), "--line takes numbers from 0 to 1"),
        (lambda: parse_line("a=0,0,0,0"), "with two different points"),
        (lambda: parse_zone("a=0,0,1,1"), "three corners or more"),
        (lambda: Counting([DOWN, DOWN]), "two lines or zones have the same name: gate"),
    ],
)
def test_refusals(make: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()  # type: ignore[operator]
