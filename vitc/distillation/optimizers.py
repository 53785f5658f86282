"""What updates the weights: AdamW unless the user brings another, and the course of its learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from vitc.errors import InputError

Named = list[tuple[str, torch.nn.Parameter]]
#: The trainable parameters by name, and the stage's rate → what updates them.
OptimizerFactory = Callable[[Named, float], Sequence[torch.optim.Optimizer]]


def adamw(weight_decay: float) -> OptimizerFactory:
    """AdamW, with weight decay for what has two dimensions or more."""

    def adamw(named: Named, rate: float) -> Sequence[torch.optim.Optimizer]:
        groups = [
            {"params": [p for _, p in named if p.ndim >= 2], "weight_decay": weight_decay},
            {"params": [p for _, p in named if p.ndim < 2], "weight_decay": 0.0},
        ]
        return (torch.optim.AdamW([group for group in groups if group["params"]], lr=rate),)

    return adamw


def checked(make: Callable[[Named, float], object]) -> OptimizerFactory:
    """The user's factory, which may return one optimizer or several. Its name stands for it in checkpoints."""

    def optimizers(named: Named, rate: float) -> Sequence[torch.optim.Optimizer]:
        made = make(named, rate)
        several = made if isinstance(made, (list, tuple)) else (made,)
        for optimizer in several:
            if not isinstance(optimizer, torch.optim.Optimizer):
                raise InputError(
                    f"optimizer returned a {type(optimizer).__name__}; it must return a torch Optimizer, or several"
                )
        return several

    optimizers.__qualname__ = getattr(make, "__qualname__", type(make).__qualname__)
    return optimizers


def set_rates(optimizers: Sequence[torch.optim.Optimizer], step: int, total: int, warmup: float) -> None:
    """Each group's own rate times a factor that rises linearly to 1 and falls as a half cosine to 0 (Loshchilov &
    Hutter, arXiv 1608.03983). A function of the step alone, so there is nothing to save."""
    rise = int(warmup * total)
    factor = (step + 1) / (rise + 1) if step < rise else 0.5 * (1 + math.cos(math.pi * (step - rise) / (total - rise)))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("peak_lr", group["lr"]) * factor
