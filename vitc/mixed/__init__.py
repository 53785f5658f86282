"""What INT8 costs block by block, and which mix of precisions is the fastest within a budget of accuracy.

score        what a user's function says of a model
prefix       runs a graph from the middle: what comes before a change is computed once
measure      what INT8 at some sites does to a program
sensitivity  vitc.sensitivity: block by block, or layer by layer
budget       the fastest mix that keeps a score
journal      every answer of a search, so that a killed search goes on
records      sensitivities and ledgers as data, text and pictures
"""

from __future__ import annotations

from vitc.mixed.records import Ledger, LedgerEntry, Sensitivity, SensitivityRow

__all__ = ["Ledger", "LedgerEntry", "Sensitivity", "SensitivityRow"]
