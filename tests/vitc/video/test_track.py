"""The tracker: assignment against every permutation, ids through crossings, gaps and dropped pictures."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from vitc.video.boxes import Detections, detections
from vitc.video.track import Tracker, TrackerOptions, assigned


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 3), (2, 5), (5, 2), (4, 4)])
def test_the_assignment_is_the_cheapest_of_all(rows: int, columns: int) -> None:
    rng = np.random.default_rng(rows * 10 + columns)
    for _ in range(20):
        costs = rng.integers(0, 9, (rows, columns)).astype(float)
        short, long = sorted((rows, columns))
        table = costs if rows <= columns else costs.T
        best = min(sum(table[i, p[i]] for i in range(short)) for p in permutations(range(long), short))
        pairs = assigned(costs)
        assert len(pairs) == short
        assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == short
        assert sum(costs[i, j] for i, j in pairs) == best


def _boxes(*middles: float, score: float = 0.9, label: int = 0) -> Detections:
    boxes = np.array([[x - 20, 40, x + 20, 60] for x in middles], np.float32).reshape(-1, 4)
    return detections(boxes, np.full(len(boxes), score, np.float32), np.full(len(boxes), label))


def test_a_thing_has_an_id_from_its_second_picture_on() -> None:
    tracker = Tracker()
    assert tracker(_boxes(50), 0.0).ids.tolist() == [-1]
    assert [tracker(_boxes(50 + 8 * i), i / 10).ids.tolist() for i in range(1, 5)] == [[1]] * 4


def test_a_thing_hidden_for_a_while_keeps_its_id() -> None:
    tracker = Tracker()
    for i in range(10):
        tracker(_boxes(50 + 8 * i), i / 10)
    for i in range(10, 15):
        tracker(_boxes(), i / 10)
    assert tracker(_boxes(50 + 8 * 15), 1.5).ids.tolist() == [1]
    assert tracker(_boxes(), 5.0).ids.tolist() == []
    assert tracker(_boxes(50 + 8 * 16), 5.1).ids.tolist() == [-1]  # after a second it is another


def test_dropped_pictures_are_time_that_passed() -> None:
    tracker = Tracker(fps=10.0)
    for i in range(10):
        tracker(_boxes(50 + 12 * i), i / 10)
    assert tracker(_boxes(50 + 12 * 14), 1.4).ids.tolist() == [1]  # 60 pixels on: no overlap with the last box


def test_low_scores_go_on_with_a_track_and_never_begin_one() -> None:
    tracker = Tracker()
    for i in range(3):
        tracker(_boxes(50 + 5 * i), i / 10)
    assert tracker(_boxes(65, score=0.2), 0.3).ids.tolist() == [1]
    assert len(Tracker()(_boxes(50, score=0.2), 0.0)) == 0
    assert len(tracker(_boxes(70, score=0.05), 0.4)) == 0


def test_the_label_is_the_one_it_was_given_most() -> None:
    tracker = Tracker()
    for i in range(5):
        tracker(_boxes(50 + 5 * i), i / 10)
    assert tracker(_boxes(75, label=3), 0.5).labels.tolist() == [0]


def test_two_boxes_of_one_thing_are_one_track() -> None:
    both = detections(
        np.array([[30, 40, 70, 60], [31, 40, 71, 60]], np.float32), np.array([0.9, 0.6], np.float32), np.array([0, 1])
    )
    tracker = Tracker(TrackerOptions(hits=1))
    assert tracker(both, 0.0).ids.tolist() == [1]


def test_things_that_meet_keep_their_ids() -> None:
    """Two cars on neighbouring lanes, in opposite directions."""
    tracker = Tracker()
    ids = []
    for i in range(30):
        boxes = np.array([[8 * i, 40, 8 * i + 40, 60], [240 - 8 * i, 52, 280 - 8 * i, 72]], np.float32)
        found = detections(boxes, np.array([0.9, 0.8], np.float32), np.zeros(2, np.int64))
        ids.append(tracker(found, i / 10).ids.tolist())
    assert ids[1:] == [[1, 2]] * 29
