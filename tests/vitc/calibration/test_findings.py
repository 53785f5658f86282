"""Findings: merged by name, plain for JSON, and readable."""

from __future__ import annotations

import json

import pytest
import torch
from programs import captured

from vitc.calibration.findings import Findings, Smoothed

KEPT = Smoothed(torch.tensor([0.0, 0.5]), torch.tensor([2.0, 1.0]))
LEFT = Smoothed(torch.zeros(2), torch.ones(2))
FOUND = Findings(
    ranges={"norm": 4.5, "qkv/q": 2.0},
    peaks={"norm": 5.0, "gelu": float("inf")},
    means={"norm": torch.tensor([0.25, -1.0])},
    roundings={"linear": torch.tensor([[0, 1], [-1, 0]])},
    smoothing={"norm": KEPT, "other": LEFT},
    score_smoothing={"attention": LEFT},
)


def test_what_is_found_later_counts() -> None:
    both = FOUND.with_more(Findings(ranges={"norm": 3.0, "new": 1.0}))
    assert both.ranges == {"norm": 3.0, "qkv/q": 2.0, "new": 1.0}
    assert both.peaks == FOUND.peaks
    assert FOUND.ranges["norm"] == 4.5


def test_nothing_found_is_false() -> None:
    assert not Findings()
    assert Findings(peaks={"x": 1.0})


def test_plain_data_for_json() -> None:
    data = json.loads(json.dumps(FOUND.to_dict(), allow_nan=False))
    assert data == {
        "ranges": {"norm": 4.5, "qkv/q": 2.0},
        "peaks": {"norm": 5.0, "gelu": "inf"},
        "means": {"norm": [0.25, -1.0]},
        "roundings": {"linear": {"moved": 2, "of": 4}},
        "smoothing": {"norm": {"shift": [0.0, 0.5], "scale": [2.0, 1.0]}},
    }
    assert Findings().to_dict() == {}


def test_the_report_has_a_line_for_each_table() -> None:
    assert FOUND.lines() == (
        "2 ranges for INT8, from 2 (qkv/q) to 4.5 (norm)",
        "2 peaks, from 5 (norm) to inf (gelu)",
        "1 means of what linears read",
        "1 roundings, 50.0% of the weights not to the nearest",
        "1 of 2 outputs smoothed",
        "0 of 1 pairs of q and k smoothed",
    )


def test_printed_there_is_a_line_for_each_tensor() -> None:
    rows = [line.split() for line in str(FOUND).splitlines()[-3:]]
    assert rows == [["gelu", "peak", "inf"], ["norm", "range", "4.5", "peak", "5"], ["qkv/q", "range", "2"]]


def test_the_one_table_of_0_1_still_reads_and_warns() -> None:
    program = captured(torch.nn.Linear(4, 4), torch.randn(2, 4)).evolve(findings=Findings({"x": 2.0}, {"y": 3.0}))
    with pytest.warns(DeprecationWarning, match=r"program.findings.ranges and .peaks"):
        assert program.ranges == {"x": 2.0, "y/peak": 3.0}
