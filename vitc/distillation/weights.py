"""The student's weights, their running average, and those of the best score."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

Tensors = dict[str, torch.Tensor]


class Weights:
    """Parameters and buffers of a student; `decay`: of the average, None for no average."""

    def __init__(self, student: torch.nn.Module, decay: float | None) -> None:
        self._student, self._decay = student, decay
        self._average: Tensors = {} if decay is None else self._copy()
        self._best: Tensors = {}

    def keep_best(self) -> None:
        """The present weights are those of the best score."""
        self._best = self._copy()

    def settle(self) -> None:
        """The student gets its final weights: of the best score, else the average, else they are the last."""
        self._load(self._best or self._average)

    @torch.no_grad()
    def update_average(self) -> None:
        """average ← decay · average + (1 − decay) · weights; integers are copied."""
        if self._decay is None:
            return
        own = self._student.state_dict()
        for name, tensor in self._average.items():
            if tensor.is_floating_point():
                tensor.lerp_(own[name], 1 - self._decay)
            else:
                tensor.copy_(own[name])

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the student has the average weights, if there are any."""
        if not self._average:
            yield
            return
        own = self._copy()
        self._load(self._average)
        try:
            yield
        finally:
            self._load(own)

    def parts(self) -> dict[str, Tensors]:
        """What a checkpoint keeps."""
        return {"student": dict(self._student.state_dict()), "average": self._average, "best": self._best}

    def restore(self, parts: Mapping[str, Tensors]) -> None:
        """The opposite of `parts`."""
        self._load(parts["student"])
        own = self._student.state_dict()
        self._average, self._best = (
            {name: tensor.to(own[name].device) for name, tensor in parts[part].items()} for part in ("average", "best")
        )

    def _copy(self) -> Tensors:
        return {name: tensor.detach().clone() for name, tensor in self._student.state_dict().items()}

    @torch.no_grad()
    def _load(self, tensors: Tensors) -> None:
        own = self._student.state_dict()
        for name, tensor in tensors.items():
            own[name].copy_(tensor)
