"""What a distillation is told: its stages, and what holds for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vitc.errors import InputError

#: A layer: a module's path, as 'blocks.5.attn', or the place of an attention in the model, as −1 for the last.
Layer = str | int


@dataclass(frozen=True)
class Features:
    """The student's layers learn the teacher's.

    The loss is the mean squared error over the teacher's variance, so that 1.0 is a layer that has learned nothing;
    through
    a learned linear map where widths differ (hints, Romero et al., arXiv 1412.6550).

    layers: the key layers, each one name or index for both models, or a pair (student's, teacher's).
    epochs: passes over the data.
    rate:   the largest learning rate.
    """

    layers: tuple[Layer | tuple[Layer, Layer], ...] = (-1,)
    epochs: float = 1.0
    rate: float = 1e-3

    name = "features"

    def __post_init__(self) -> None:
        _check_stage(self.name, self.epochs, self.rate)
        if not self.layers:
            raise InputError("stage features needs at least one layer; layers=(-1,) is the last attention")

    @property
    def pairs(self) -> tuple[tuple[Layer, Layer], ...]:
        """(student's, teacher's) for each key layer."""
        return tuple(layer if isinstance(layer, tuple) else (layer, layer) for layer in self.layers)


@dataclass(frozen=True)
class Logits:
    """The student's outputs learn the teacher's and the labels.

    The loss is soft · T² · KL(teacher/T ‖ student/T) + (1 − soft) · cross entropy (Hinton et al., arXiv 1503.02531).
    Classes
    are dimension 1 of an output, as for torch's cross entropy.

    epochs:      passes over the data.
    rate:        the largest learning rate.
    temperature: T.
    soft:        the share of the soft labels; 1 needs no labels in the data.
    """

    epochs: float = 3.0
    rate: float = 1e-3
    temperature: float = 2.0
    soft: float = 0.7

    name = "logits"

    def __post_init__(self) -> None:
        _check_stage(self.name, self.epochs, self.rate)
        if self.temperature <= 0:
            raise InputError(f"stage logits: temperature is {self.temperature:g}; it must be above 0")
        if not 0 <= self.soft <= 1:
            raise InputError(f"stage logits: soft is {self.soft:g}; it is the share of the soft labels, from 0 to 1")


Stage = Features | Logits


@dataclass(frozen=True)
class DistillConfig:
    """What holds for all stages.

    batch_size:       of tensors given as data; a loader has its own.
    accumulate:       batches in one step.
    precision:        'auto' is bf16 on a GPU that has it, else fp32.
    weight_decay:     of matrices.
    clip:             the largest norm of the gradients; None for any.
    warmup:           the share of a stage's steps in which the rate rises, before it falls as a cosine.
    ema:              the decay of an average of the weights, as 0.999, which then is the result; None for none.
    evaluate_every:   steps between scores; None for once an epoch.
    patience:         a stage ends after so many scores without a better one; None for never.
    checkpoint_every: steps between checkpoints.
    seed:             all that is random comes from it.
    """

    batch_size: int = 32
    accumulate: int = 1
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    weight_decay: float = 0.05
    clip: float | None = 1.0
    warmup: float = 0.1
    ema: float | None = None
    evaluate_every: int | None = None
    patience: int | None = None
    checkpoint_every: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batch_size", "accumulate", "evaluate_every", "patience", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"DistillConfig: {name} is {value}; it must be 1 or more")
        if self.precision not in ("auto", "fp32", "bf16"):
            raise InputError(f"DistillConfig: precision is {self.precision!r}; it is one of auto, fp32, bf16")
        if self.ema is not None and not 0 < self.ema < 1:
            raise InputError(f"DistillConfig: ema is {self.ema:g}; it must be between 0 and 1")
        if not 0 <= self.warmup < 1:
            raise InputError(f"DistillConfig: warmup is {self.warmup:g}; it must be from 0 to below 1")
        if self.clip is not None and self.clip <= 0:
            raise InputError(f"DistillConfig: clip is {self.clip:g}; it must be above 0, or None")


def _check_stage(name: str, epochs: float, rate: float) -> None:
    if epochs <= 0 or rate <= 0:
        raise InputError(f"stage {name}: epochs is {epochs:g} and rate {rate:g}; both must be above 0")
