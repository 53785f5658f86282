"""Criteria that a test registers are gone after it."""

from __future__ import annotations

import pytest

from vitc.passes.pruning.score import criteria


@pytest.fixture(autouse=True)
def _known_criteria(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(criteria, "_registry", dict(criteria._registry))
