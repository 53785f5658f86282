"""Bounded queues between the threads, and clocks that take no more room the longer they run."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Sequence
from typing import Generic, TypeVar

import numpy as np

T = TypeVar("T")


class Ended(Exception):
    """Nothing more will come, or nobody will take it."""


class Gate(Generic[T]):
    """A queue of at most `room` items for one giver and one taker. A full one makes the giver wait, or, where it
    cannot (`live`), loses its oldest item and counts it in `dropped`."""

    def __init__(self, room: int, live: bool = False) -> None:
        self._items: deque[T] = deque()
        self._room, self._live = room, live
        self._changed = threading.Condition()
        self._ended = False
        self.dropped = 0

    def put(self, item: T) -> None:
        """Raises Ended after `end`."""
        with self._changed:
            while len(self._items) >= self._room and not self._live and not self._ended:
                self._changed.wait()
            if self._ended:
                raise Ended
            if len(self._items) >= self._room:
                self._items.popleft()
                self.dropped += 1
            self._items.append(item)
            self._changed.notify_all()

    def take(self, timeout: float | None = None) -> T | None:
        """The oldest item; None where none came in time. Raises Ended when all are taken and no more will come."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._ended, timeout)
            if self._items:
                item = self._items.popleft()
                self._changed.notify_all()
                return item
            if self._ended:
                raise Ended
            return None

    def end(self, drop: bool = False) -> None:
        """No more will be put; with `drop`, what waits is let go uncounted, and who waits to put is freed."""
        with self._changed:
            self._ended = True
            if drop:
                self._items.clear()
            self._changed.notify_all()


# Buckets one per cent apart, from a microsecond to some three hours.
_STEP, _LEAST, _BUCKETS = math.log(1.01), 1e-6, 2320


class Clock:
    """Times, kept as a histogram: percentiles are right within 1 %, whether of a second or of a year."""

    def __init__(self) -> None:
        self._counts = np.zeros(_BUCKETS, np.int64)
        self.count = 0
        self.total = 0.0
        self.longest = 0.0
        #: The mean of the last few, for who must guess the next one.
        self.recent = 0.0

    def add(self, seconds: float) -> None:
        bucket = int(math.log(max(seconds, _LEAST) / _LEAST) / _STEP)
        self._counts[min(bucket, _BUCKETS - 1)] += 1
        self.count += 1
        self.total += seconds
        self.longest = max(self.longest, seconds)
        self.recent = seconds if self.count == 1 else 0.8 * self.recent + 0.2 * seconds

    def percentiles(self, shares: Sequence[float]) -> list[float]:
        """In seconds; 0 where nothing was timed."""
        if not self.count:
            return [0.0] * len(shares)
        ranks = np.ceil(np.array(shares) / 100 * self.count).clip(1)
        places = np.searchsorted(np.cumsum(self._counts), ranks)
        return [min(self.longest, _LEAST * math.exp((place + 0.5) * _STEP)) for place in places]
