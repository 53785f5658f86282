"""What a stage trains: the student with its key layers in view, and the maps from its widths to the teacher's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from vitc.distillation.batches import Batch
from vitc.distillation.config import Features, Logits, Stage
from vitc.distillation.layers import Layers, TappedModule, is_graph, tapped
from vitc.distillation.losses import logits_loss
from vitc.errors import DistillError


class Scope(torch.nn.Module):
    """forward(*inputs) → (the student's output, its key layers' outputs in the teacher's widths)."""

    def __init__(self, student: torch.nn.Module, maps: Sequence[torch.nn.Module]) -> None:
        super().__init__()
        self.student = student
        self.maps = torch.nn.ModuleList(maps)

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Any, list[torch.Tensor]]:
        output, features = self.student(*args, **kwargs)
        return output, [change(feature) for change, feature in zip(self.maps, features, strict=True)]


def student_and_teacher(
    stage: Stage, student: torch.nn.Module, teacher: torch.nn.Module, first: Batch
) -> tuple[Scope, torch.nn.Module]:
    """The two as a stage needs them, after both have run once on the first batch to see that they fit together.

    Raises InputError for an unknown layer, DistillError for layers or outputs that cannot be compared.
    """
    set_training(student, False)
    pairs: list[tuple[str, str]] = []
    if isinstance(stage, Features):
        own, other = Layers(student, "student", first), Layers(teacher, "teacher", first)
        pairs = [(own.path(ours), other.path(theirs)) for ours, theirs in stage.pairs]
    seen, wanted = tapped(student, [ours for ours, _ in pairs]), tapped(teacher, [theirs for _, theirs in pairs])
    with torch.no_grad():
        output, features = first.call(seen)
        target, targets = first.call(wanted)
    if isinstance(stage, Logits):
        logits_loss(stage, output, target, first.labels)  # raises if they do not fit
    return Scope(seen, [_map(*pair, f, t) for pair, f, t in zip(pairs, features, targets, strict=True)]), wanted


def set_training(model: torch.nn.Module, on: bool) -> None:
    """A graph was captured in one mode and has no other."""
    if not is_graph(model):
        model.train(on)


@contextmanager
def released(*models: torch.nn.Module) -> Iterator[None]:
    """Removes the hooks at the end."""
    try:
        yield
    finally:
        for model in models:
            if isinstance(model, TappedModule):
                model.release()


def _map(own: str, other: str, ours: torch.Tensor, theirs: torch.Tensor) -> torch.nn.Module:
    if ours.shape[:-1] != theirs.shape[:-1]:
        raise DistillError(
            f"the student's layer {own!r} computes {list(ours.shape)}, the teacher's {other!r} {list(theirs.shape)};"
            " all but the last dimension must agree: choose other layers, as Features(layers=((student's,"
            " teacher's),))"
        )
    if ours.shape[-1] == theirs.shape[-1]:
        return torch.nn.Identity()
    return torch.nn.Linear(ours.shape[-1], theirs.shape[-1])
