"""Gates and clocks."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from vitc.video.flow import Clock, Ended, Gate


def test_a_live_gate_loses_the_oldest_and_counts_it() -> None:
    gate: Gate[int] = Gate(2, live=True)
    for i in range(5):
        gate.put(i)
    assert [gate.take(), gate.take(), gate.take(0.0)] == [3, 4, None]
    assert gate.dropped == 3


def test_a_gate_that_waits_loses_nothing() -> None:
    gate: Gate[int] = Gate(1)
    giver = threading.Thread(target=lambda: [gate.put(i) for i in range(50)] and gate.end())
    giver.start()
    taken = [gate.take() for _ in range(50)]
    giver.join()
    assert taken == list(range(50))
    with pytest.raises(Ended):
        gate.take()
    assert gate.dropped == 0


def test_an_ended_gate_frees_who_waits_to_put() -> None:
    gate: Gate[int] = Gate(1)
    gate.put(1)
    refused = []

    def give() -> None:
        try:
            gate.put(2)
        except Ended:
            refused.append(2)

    giver = threading.Thread(target=give)
    giver.start()
    gate.end(drop=True)
    giver.join(5)
    assert refused == [2]
    with pytest.raises(Ended):
        gate.take()


def test_percentiles_are_right_within_one_per_cent() -> None:
    rng = np.random.default_rng(0)
    times = rng.lognormal(-4, 1, 20_000)
    clock = Clock()
    for t in times:
        clock.add(float(t))
    np.testing.assert_allclose(clock.percentiles((50, 95, 99)), np.percentile(times, (50, 95, 99)), rtol=0.012)
    assert clock.total == pytest.approx(times.sum())
    assert Clock().percentiles((50,)) == [0.0]


def test_a_clock_takes_any_time() -> None:
    clock = Clock()
    for t in (0.0, 1e-9, 1e9):
        clock.add(t)
    assert clock.count == 3
