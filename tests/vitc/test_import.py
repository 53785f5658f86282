"""`import vitc` is quick and brings no torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

import vitc

MEASURE = (
    "import sys, time; began = time.perf_counter(); import vitc; took = time.perf_counter() - began; "
    "print(took, 'torch' in sys.modules)"
)


def test_import_is_quick_and_without_torch() -> None:
    seconds = []
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", MEASURE], cwd="/", capture_output=True, text=True, check=True)
        took, has_torch = done.stdout.split()
        assert has_torch == "False"
        seconds.append(float(took))
    assert min(seconds) < 0.3


@pytest.mark.parametrize("name", vitc.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(vitc, name) is not None
    assert name in dir(vitc)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'vitc' has no attribute 'compiel'"):
        _ = vitc.compiel  # type: ignore[attr-defined]
