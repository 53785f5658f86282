"""Calibrators against what they must find on a known distribution."""

from __future__ import annotations

import pytest
import torch

from vitc.passes.quantization.calibrators import CALIBRATORS
from vitc.passes.quantization.observe.histogram import MagnitudeHistogram


def test_calibrators_on_a_long_tail() -> None:
    histogram = MagnitudeHistogram()
    values = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    values[0] = 60.0
    histogram.update(values)
    limits = {name: choose(histogram) for name, choose in CALIBRATORS.items()}
    assert limits["minmax"] == pytest.approx(60.0)
    assert 3 < limits["percentile"] < 5
    assert all(2 < limits[name] <= 60.0 for name in limits)
    exact = float((values.abs() - 4).clamp_min(0).square().sum())
    assert histogram.clipped(4.0) == pytest.approx(exact, rel=0.05)
