"""What a user's function says of a model."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from vitc.errors import InputError

#: A callable model → its score, higher is better.
Evaluate = Callable[[Callable[..., Any]], float]


def score_of(evaluate: Evaluate, model: Callable[..., Any]) -> float:
    """What the user's function says of a model. Raises InputError if that is no finite number."""
    score = float(evaluate(model))
    if not math.isfinite(score):
        raise InputError(f"evaluate returned {score}; it must return a finite number, higher is better")
    return score
