"""Where a distillation runs: in this process alone, or in several that Accelerate has launched."""

from __future__ import annotations

import importlib.util
import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch

from vitc.errors import DistillError, InputError, missing


class Workers(Protocol):
    """What a training loop needs to know of its processes."""

    device: torch.device
    rank: int
    count: int

    def prepare(self, model: torch.nn.Module, loader: Any) -> tuple[torch.nn.Module, Any]:
        """The model whose gradients are averaged over the processes, and this process' share of the batches."""

    def without_sync(self, model: torch.nn.Module) -> AbstractContextManager[Any]:
        """Gradients stay local inside: for all but the last batch of a step."""

    def mean(self, value: torch.Tensor) -> float:
        """The mean of a scalar over the processes."""

    def same(self, value: Any) -> Any:
        """The first process' value, in all."""

    def wait(self) -> None:
        """Until all have come here."""


class Alone:
    """One process, on the student's own device."""

    rank, count = 0, 1

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def prepare(self, model: torch.nn.Module, loader: Any) -> tuple[torch.nn.Module, Any]:
        return model, loader

    def without_sync(self, model: torch.nn.Module) -> AbstractContextManager[Any]:
        return nullcontext()

    def mean(self, value: torch.Tensor) -> float:
        return float(value)

    def same(self, value: Any) -> Any:
        return value

    def wait(self) -> None:
        return


class Accelerated:
    """One of several processes, on the device that Accelerate chose."""

    def __init__(self) -> None:
        from accelerate import Accelerator, DistributedDataParallelKwargs

        # A stage on features leaves the head unused. Without cpu=, Accelerate joins no processes where there is no GPU.
        unused = DistributedDataParallelKwargs(find_unused_parameters=True)
        self._accelerator = Accelerator(cpu=not torch.accelerator.is_available(), kwargs_handlers=[unused])
        self.device = self._accelerator.device
        self.rank, self.count = self._accelerator.process_index, self._accelerator.num_processes
        if self.count != _launched():
            raise DistillError(
                f"{_launched()} processes were launched and Accelerate joins {self.count} of them on {self.device}:"
                " each would train by itself and overwrite the others' checkpoint; launch one process, or set"
                " ACCELERATE_USE_CPU=true"
            )

    def prepare(self, model: torch.nn.Module, loader: Any) -> tuple[torch.nn.Module, Any]:
        if not isinstance(loader, torch.utils.data.DataLoader):
            raise InputError(
                f"several processes share a torch DataLoader, or tensors; data is a {type(loader).__name__}"
            )
        prepared, shared = self._accelerator.prepare(model, loader)
        return prepared, shared

    def without_sync(self, model: torch.nn.Module) -> AbstractContextManager[Any]:
        return self._accelerator.no_sync(model)  # type: ignore[no-any-return]

    def mean(self, value: torch.Tensor) -> float:
        return float(self._accelerator.reduce(value.detach(), reduction="mean"))

    def same(self, value: Any) -> Any:
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]

    def wait(self) -> None:
        self._accelerator.wait_for_everyone()


def workers(device: torch.device) -> Workers:
    """Accelerate's, if this process is one of several. Raises DistillError where Accelerate does not join them."""
    if _launched() == 1:
        return Alone(device)
    if importlib.util.find_spec("accelerate") is None:
        raise missing("accelerate", "distillation in several processes", "distill")
    return Accelerated()


def _launched() -> int:
    """How many processes `accelerate launch` or torchrun started."""
    return int(os.environ.get("WORLD_SIZE", "1"))
