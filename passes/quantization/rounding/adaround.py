"""AdaRound: whether each weight is rounded down or up, as a variable between the two that training drives to one of
them.

Nagel et al., arXiv 2004.10568, section 3.3:

    Ŵ    = s · clip(⌊W / s⌋ + h(V))
    h(V) = clip(σ(V) (ζ − γ) + γ, 0, 1), the rectified sigmoid, ζ = 1.1, γ = −0.1

with the regularizer Σ 1 − |2 h(V) − 1|^β, β falling while it trains.
"""

from __future__ import annotations

import torch
from torch import Tensor

_HIGH, _LOW = 1.1, -0.1


class SoftRounding:
    """Of a weight [O, C] with FP32 `steps` [O]; it starts at the weight itself, not rounded."""

    def __init__(self, weight: Tensor, steps: Tensor) -> None:
        inside = (weight.float() / steps[:, None]).clamp(-127, 127)
        self._down = inside.floor().clamp(max=126)
        share = ((inside - self._down - _LOW) / (_HIGH - _LOW)).clamp(1e-4, 1 - 1e-4)
        self.variable = torch.logit(share).requires_grad_()

    def _up(self) -> Tensor:
        return (torch.sigmoid(self.variable) * (_HIGH - _LOW) + _LOW).clamp(0, 1)

    def soft(self) -> Tensor:
        """In steps, float32 [O, C], differentiable."""
        return self._down + self._up()

    def undecided(self, beta: float) -> Tensor:
        """The regulariser, averaged: 0 where every weight has been rounded, 1 where all lie in the middle."""
        return (1 - (2 * self._up() - 1).abs().pow(beta)).mean()

    def integers(self) -> Tensor:
        """int8 [O, C], in [-127, 127]."""
        with torch.no_grad():
            return (self._down + (self._up() >= 0.5)).to(torch.int8)
