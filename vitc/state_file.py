"""One file holds the state of something long: tensors as safetensors, everything else as JSON in the file's own
metadata. Nothing is pickled.

The file is replaced at once, so whoever is killed leaves the old one or the new one, never half of one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from vitc.errors import VitcError

Tensors = dict[str, torch.Tensor]
FORMAT = 1


def write(path: Path, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
    """Replaces the file at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.part")
    own = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    save_file(own, unfinished, metadata={"vitc": json.dumps({"format": FORMAT, **state})})
    with unfinished.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(unfinished, path)


def read(path: Path, what: str, error: type[VitcError]) -> tuple[Tensors, dict[str, Any]]:
    """What was written, by the same version. `what` the file should be, and the type of the `error` if it is not."""
    try:
        with safe_open(path, "pt") as file:
            state = json.loads((file.metadata() or {})["vitc"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError) as problem:
        raise error(f"{path} is no {what} ({problem}); give another path, or delete it") from problem
    if state["format"] != FORMAT:
        raise error(
            f"{path} is a {what} of format {state['format']}, this vitc reads {FORMAT}; delete it to begin again"
        )
    return tensors, state
