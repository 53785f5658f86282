"""Which images find something and which judge it: three of four find, the fourth judges."""

from __future__ import annotations

import torch
from torch import Tensor

_EVERY = 4


def finders_and_judges(count: int) -> tuple[Tensor, Tensor]:
    """Bool [count] each. With too few images to divide the same ones find and judge."""
    judges = torch.arange(count) % _EVERY == _EVERY - 1
    everybody = torch.ones_like(judges)
    return (~judges, judges) if bool(judges.any()) else (everybody, everybody)
