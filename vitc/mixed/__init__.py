"""What INT8 costs block by block, and which mix of precisions is the fastest within a budget of accuracy."""

from __future__ import annotations

from vitc.mixed.records import Ledger, LedgerEntry, Sensitivity, SensitivityRow

__all__ = ["Ledger", "LedgerEntry", "Sensitivity", "SensitivityRow"]
