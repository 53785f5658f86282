"""Puts this folder on the path: its tests share `small_vits`. Criteria that a test registers are gone after it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vitc.passes.pruning import criteria

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def _known_criteria(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(criteria, "_registry", dict(criteria._registry))
