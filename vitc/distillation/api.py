"""vitc.distill: a student learns from its teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vitc.distillation.batches import loader_of, own_randomness
from vitc.distillation.config import DistillConfig, Features, Logits, Stage
from vitc.distillation.optimizers import adamw, checked
from vitc.distillation.progress import Bar
from vitc.distillation.run import Entry, Evaluate, Run
from vitc.distillation.scope import set_training
from vitc.distillation.workers import workers
from vitc.errors import InputError


@dataclass(frozen=True)
class DistillResult:
    """What came of a distillation.

    student: the module that was given, trained, in eval mode.
    losses:  one for each step, as (stage, step, value).
    scores:  what `evaluate` returned, as (stage, step, value).
    best:    the best score, whose weights the student has; None without `evaluate`.
    """

    student: torch.nn.Module
    losses: tuple[Entry, ...]
    scores: tuple[Entry, ...]
    best: float | None

    def __str__(self) -> str:
        parts = []
        for stage in dict.fromkeys(entry.stage for entry in self.losses):
            values = [entry.value for entry in self.losses if entry.stage == stage]
            parts.append(f"{stage}: {len(values)} steps, loss {values[0]:.4f} → {values[-1]:.4f}")
        if self.best is not None:
            parts.append(f"best score {self.best:.4f}")
        return "; ".join(parts)


def distill(
    student: torch.nn.Module,
    teacher: torch.nn.Module,
    data: Any,
    *,
    stages: Sequence[Stage] = (Features(), Logits()),
    config: DistillConfig = DistillConfig(),
    optimizer: Callable[[list[tuple[str, torch.nn.Parameter]], float], Any] | None = None,
    evaluate: Evaluate | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = False,
) -> DistillResult:
    """Trains `student`, in place, to do what `teacher` does: its key layers first, then its outputs.

    student: what vitc.prune made, or any nn.Module with the teacher's inputs and outputs. Parameters that do not
        require gradients stay as they are.
    teacher: an nn.Module; it is put into eval mode and is not changed.
    data: tensors (inputs, labels), or a DataLoader or list of batches: (inputs, labels), inputs alone, or dicts for
        forward with 'labels' beside.
    stages: `Features` and `Logits`, in any order and number.
    config: what holds for all stages: see `DistillConfig`.
    optimizer: a function of the trainable parameters [(name, parameter)] and a stage's rate to an optimizer, or
        several; None is AdamW. Its rates rise and fall as AdamW's do.
    evaluate: a function of the student to a score, higher is better. The student ends with the weights of the best.
    checkpoint: a file to save the run in, and to go on from if it exists. The result is the same, bit for bit, on the
        same machine and number of threads.
    progress: a bar on stderr.

    In several processes, launched by `accelerate launch` or torchrun, every process trains on its share of the batches.

    Raises InputError for arguments that cannot be, DistillError where the two models do not fit, the loss is no number,
    a checkpoint is of another run, or several processes do not find each other; MissingDependencyError in several
    processes without accelerate.
    """
    _check_models(student, teacher)
    if not stages:
        raise InputError("stages is empty; the default is (Features(), Logits())")
    loader = loader_of(data, config.batch_size)
    trained = next((p for p in student.parameters() if p.requires_grad), None)
    if trained is None:
        raise InputError(
            "the student has no parameter that requires gradients; call requires_grad_() on it, or on parts of it"
        )
    here = workers(trained.device)
    student.to(here.device)
    teacher.to(here.device)
    set_training(teacher, False)
    _own_weights(student, teacher)
    factory = adamw(config.weight_decay) if optimizer is None else checked(optimizer)
    path = None if checkpoint is None else Path(checkpoint)
    with own_randomness(), Bar(progress and here.rank == 0) as bar:
        run = Run(student, teacher, loader, stages, config, factory, evaluate, path, here, bar)
        run.finish()
    return DistillResult(student, tuple(run.state.losses), tuple(run.state.scores), run.state.best)


def _check_models(student: object, teacher: object) -> None:
    for whose, model in (("student", student), ("teacher", teacher)):
        if not isinstance(model, torch.nn.Module):
            raise InputError(f"the {whose} must be a torch.nn.Module, got {type(model).__name__}")
    if student is teacher:
        raise InputError("student and teacher are one module; give copy.deepcopy(model) as one of them")


def _own_weights(student: torch.nn.Module, teacher: torch.nn.Module) -> None:
    """Where they share a tensor the student gets a copy, so that training it leaves the teacher alone."""
    theirs = {t.untyped_storage().data_ptr() for t in (*teacher.parameters(), *teacher.buffers())}
    copies: dict[int, torch.Tensor] = {}  # a weight that the student itself shares stays one
    for module in student.modules():
        for home in (module._parameters, module._buffers):
            for name, tensor in home.items():
                if tensor is None or tensor.untyped_storage().data_ptr() not in theirs:
                    continue
                if id(tensor) not in copies:
                    copy = tensor.detach().clone()
                    is_parameter = isinstance(tensor, torch.nn.Parameter)
                    copies[id(tensor)] = torch.nn.Parameter(copy, tensor.requires_grad) if is_parameter else copy
                home[name] = copies[id(tensor)]  # type: ignore[assignment]
