"""The two losses. All in float32, averaged over samples (and pixels, or tokens)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from vitc.distillation.config import Logits
from vitc.errors import DistillError
from vitc.graph.structure import tensors_of


def features_loss(student: Sequence[torch.Tensor], teacher: Sequence[torch.Tensor]) -> torch.Tensor:
    """Mean over the layers of ‖s − t‖² / variance of t."""
    parts = [
        functional.mse_loss(s.float(), t.float()) / t.float().var().clamp_min(1e-12)
        for s, t in zip(student, teacher, strict=True)
    ]
    return torch.stack(parts).mean()


def logits_loss(stage: Logits, student: Any, teacher: Any, labels: torch.Tensor | None) -> torch.Tensor:
    """Soft and hard labels by the stage's share. Outputs of any structure: soft labels for each floating-point tensor,
    hard ones for the first."""
    pairs = _pairs(student, teacher)
    soft = torch.stack([_soft(s.float(), t.float(), stage.temperature) for s, t in pairs]).mean()
    if stage.soft == 1:
        return soft
    if labels is None:
        raise DistillError(
            f"stage logits weighs hard labels with {1 - stage.soft:g} and the data has none: give batches (inputs,"
            " labels), or Logits(soft=1.0)"
        )
    return stage.soft * soft + (1 - stage.soft) * functional.cross_entropy(pairs[0][0].float(), labels)


def _soft(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    log_student = functional.log_softmax(student / temperature, 1)
    log_teacher = functional.log_softmax(teacher / temperature, 1)
    divergence = functional.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(1)
    return divergence.mean() * temperature**2


def _pairs(student: Any, teacher: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    ours, theirs = ([t for t in tensors_of(x) if t.is_floating_point()] for x in (student, teacher))
    shapes = [[list(t.shape) for t in tensors] for tensors in (ours, theirs)]
    if not ours or shapes[0] != shapes[1]:
        raise DistillError(
            f"the student returns tensors of shapes {shapes[0]}, the teacher {shapes[1]}; stage logits needs equal"
            " outputs: wrap the models, or leave that stage out (stages=(Features(),))"
        )
    return list(zip(ours, theirs, strict=True))
