"""Which box is which thing from picture to picture: ByteTrack, in NumPy.

Source: Zhang et al., ByteTrack: Multi-Object Tracking by Associating Every Detection Box, 2022. First the boxes with
high scores are given to the tracks, then the tracks that are left get the boxes with low ones, which are mostly things
half hidden. Motion is a Kalman filter with a constant speed for each of the box's middle and size; its noise grows with
the height of the box, as there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from vitc.video.boxes import Detections, Floats, detections, iou, suppressed

Doubles: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

# Of the height of a box: how far its place is off when measured, and how much place and speed change in a picture.
_MEASURED, _PLACE, _SPEED = 1 / 20, 1 / 20, 1 / 80


@dataclass(frozen=True)
class TrackerOptions:
    """low: least score of a box that may go on with a track. high: least score of a box that may begin one.
    hits: pictures in a row a thing is seen in before it has an id. patience: seconds a track lives without being seen.
    near: least overlap (IoU) of a box with where its track is expected, for high scores, and `near_low` for low ones.
    twins: of two boxes that overlap more, whatever their labels, one goes: a thing has one label at a time.
    """

    low: float = 0.1
    high: float = 0.5
    hits: int = 2
    patience: float = 1.0
    near: float = 0.2
    near_low: float = 0.5
    twins: float = 0.8


class _Track:
    def __init__(self, box: Floats, label: int, score: float, time: float) -> None:
        self.id = -1
        self.hits = 1
        self.seen = time
        self.votes = {label: score}
        measured = _measure(box)
        self.state = np.stack([measured, np.zeros(4)])  # place and speed of x, y, width, height
        height = measured[3]
        # The covariance of place and speed, the same for each of the four.
        self.spread = np.array([[(2 * _MEASURED * height) ** 2, 0.0], [0.0, (10 * _SPEED * height) ** 2]])

    def predict(self, frames: float) -> None:
        """`frames`: how many pictures later, as if none had been left out."""
        step = np.array([[1.0, frames], [0.0, 1.0]])
        height = max(1.0, self.state[0, 3])
        self.state = step @ self.state
        noise = np.diag([(_PLACE * height) ** 2, (_SPEED * height) ** 2]) * frames
        self.spread = step @ self.spread @ step.T + noise

    def correct(self, box: Floats, label: int, score: float, time: float) -> None:
        measured = _measure(box)
        gain = self.spread[:, 0] / (self.spread[0, 0] + (_MEASURED * max(1.0, measured[3])) ** 2)
        self.state = self.state + np.outer(gain, measured - self.state[0])
        self.spread = self.spread - np.outer(gain, self.spread[0])
        self.seen = time
        self.hits += 1
        self.votes[label] = self.votes.get(label, 0.0) + score

    @property
    def box(self) -> Doubles:
        x, y, width, height = self.state[0]
        width, height = max(1.0, width), max(1.0, height)
        return np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2])

    @property
    def label(self) -> int:
        """What it was taken for most, weighed by score."""
        return max(self.votes, key=lambda label: (self.votes[label], -label))


class Tracker:
    """Follows the things of one source. Feed every picture's boxes in order, low scores included."""

    def __init__(self, options: TrackerOptions | None = None, fps: float | None = None) -> None:
        self.options = options or TrackerOptions()
        self._period = 1 / fps if fps else None
        self._tracks: list[_Track] = []
        self._time: float | None = None
        self._next = 1

    def __call__(self, found: Detections, time: float) -> Detections:
        """The boxes of this picture that belong to a track or may begin one, with ids, -1 for a track too young to
        have one, and the label of the track. `time` in seconds, rising."""
        options = self.options
        frames = self._frames_since(time)
        for track in self._tracks:
            track.predict(frames)
        found = found.take(found.scores >= options.low)
        found = found.take(suppressed(found, options.twins, by_label=False))
        ids, labels = np.full(len(found), -1, np.int64), found.labels.copy()
        high = found.scores >= options.high
        free = list(self._tracks)
        for chosen, near in ((np.flatnonzero(high), options.near), (np.flatnonzero(~high), options.near_low)):
            used = set()
            for place, i in _pairs(free, found.boxes[chosen], near):
                track, box = free[place], int(chosen[i])
                track.correct(found.boxes[box], int(found.labels[box]), float(found.scores[box]), time)
                if track.id < 0 and track.hits >= options.hits:
                    track.id, self._next = self._next, self._next + 1
                ids[box], labels[box] = track.id, track.label
                used.add(place)
                high[box] = False
            free = [track for place, track in enumerate(free) if place not in used]
        kept = {id(track) for track in free if track.id < 0}  # seen once and not again: nothing
        self._tracks = [t for t in self._tracks if id(t) not in kept and time - t.seen <= options.patience]
        for box in np.flatnonzero(high).tolist():
            track = _Track(found.boxes[box], int(found.labels[box]), float(found.scores[box]), time)
            if options.hits <= 1:
                track.id, self._next = self._next, self._next + 1
                ids[box] = track.id
            self._tracks.append(track)
        shown = (ids >= 0) | (found.scores >= options.high)
        return detections(found.boxes, found.scores, labels, ids).take(shown)

    def _frames_since(self, time: float) -> float:
        """Pictures since the last one: of a source that drops some, more than one."""
        passed = 0.0 if self._time is None else max(0.0, time - self._time)
        self._time = time
        if self._period is None:
            self._period = passed or None
        return max(1.0, passed / self._period) if self._period else 1.0


def _measure(box: Floats) -> Doubles:
    x0, y0, x1, y1 = box.astype(np.float64)
    return np.array([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0])


def _pairs(tracks: list[_Track], boxes: Floats, near: float) -> list[tuple[int, int]]:
    """The pairing of tracks with boxes of the largest sum of overlaps, without those that overlap less than `near`."""
    if not tracks or not len(boxes):
        return []
    overlap = iou(np.stack([track.box for track in tracks]).astype(np.float32), boxes)
    overlap = np.where(overlap >= near, overlap, 0.0)
    return [(i, j) for i, j in assigned(1.0 - overlap) if overlap[i, j] > 0]


def assigned(costs: Any) -> list[tuple[int, int]]:
    """The pairs (row, column) of the least sum of costs, each row and column once, as many as the shorter side has.

    The Hungarian method with potentials, shortest augmenting paths: O(rows · rows · columns).
    """
    costs = np.asarray(costs, np.float64)
    if costs.shape[0] > costs.shape[1]:
        return sorted((row, column) for column, row in assigned(costs.T))
    rows, columns = costs.shape
    u, v = np.zeros(rows + 1), np.zeros(columns + 1)
    owner = np.zeros(columns + 1, np.int64)  # the row of each column, counted from 1; 0 for none
    for row in range(1, rows + 1):
        owner[0], column = row, 0
        least, way = np.full(columns + 1, np.inf), np.zeros(columns + 1, np.int64)
        done = np.zeros(columns + 1, bool)
        while owner[column]:
            done[column] = True
            reduced = costs[owner[column] - 1] - u[owner[column]] - v[1:]
            better = ~done[1:] & (reduced < least[1:])
            least[1:][better] = reduced[better]
            way[1:][better] = column
            nearest = int(np.where(done[1:], np.inf, least[1:]).argmin()) + 1
            delta = least[nearest]
            u[owner[done]] += delta
            v[done] -= delta
            least[1:][~done[1:]] -= delta
            column = nearest
        while column:
            owner[column], column = owner[way[column]], int(way[column])
    return sorted((int(owner[c]) - 1, c - 1) for c in range(1, columns + 1) if owner[c])
