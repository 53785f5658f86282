"""What a run's checkpoint holds, and whose it is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from vitc import state_file
from vitc.errors import DistillError
from vitc.state_file import Tensors


def read(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """A run's tensors, and its "run", "state" and "numbers". Raises DistillError where the file is no checkpoint."""
    tensors, saved = state_file.read(path, "distillation checkpoint", DistillError)
    if not all(isinstance(saved.get(key), dict) for key in ("run", "state", "numbers")):
        raise DistillError(f"{path} is no distillation checkpoint: it holds {sorted(saved)}; give another path")
    return tensors, saved


def check_same(path: Path, saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises DistillError, naming both values, if a checkpoint was made by another run."""
    now = json.loads(json.dumps(now))
    for key in sorted({*saved, *now}):
        if saved.get(key) != now.get(key):
            raise DistillError(
                f"the checkpoint {path} was made with {key} = {saved.get(key)!r}, this call has {now.get(key)!r}; use"
                " the same, or another path"
            )


def fingerprint(model: torch.nn.Module, values: bool) -> str:
    """A hash of the names and shapes of a model's tensors, and of their values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        if values:
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def pack(prefix: str, tensors: Mapping[str, torch.Tensor]) -> Tensors:
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def unpack(prefix: str, tensors: Mapping[str, torch.Tensor]) -> Tensors:
    start = f"{prefix}/"
    return {name[len(start) :]: tensor for name, tensor in tensors.items() if name.startswith(start)}


def optimizer_tensors(optimizers: Sequence[torch.optim.Optimizer]) -> tuple[Tensors, dict[str, Any]]:
    """The state of any optimizers: tensors by 'optimizer/parameter/name', and the numbers."""
    tensors: Tensors = {}
    numbers: dict[str, Any] = {}
    for i, optimizer in enumerate(optimizers):
        for index, entries in optimizer.state_dict()["state"].items():
            for name, value in entries.items():
                home: dict[str, Any] = tensors if isinstance(value, torch.Tensor) else numbers
                home[f"{i}/{index}/{name}"] = value
    return tensors, numbers


def restore_optimizers(
    optimizers: Sequence[torch.optim.Optimizer], tensors: Mapping[str, torch.Tensor], numbers: Mapping[str, Any]
) -> None:
    for i, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, Any]] = {}
        for key, value in {**tensors, **numbers}.items():
            which, index, name = key.split("/", 2)
            if int(which) == i:
                state.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
