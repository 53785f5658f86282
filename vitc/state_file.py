"""One file holds the state of something long: tensors as safetensors, everything else as JSON in the file's own
metadata. Nothing is pickled.

The file is replaced at once, so whoever is killed leaves the old one or the new one, never half of one. Its SHA-256
stands in it, so what was damaged later is refused, not gone on from. (It says nothing of who wrote it.)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from vitc.errors import VitcError
from vitc.files.plain import open_plain
from vitc.files.saving import beside, publish

Tensors = dict[str, torch.Tensor]
FORMAT = 2


def write(path: Path, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
    """Replaces the file at once. Raises OSError, with the old one untouched, where the disk can't."""
    path.parent.mkdir(parents=True, exist_ok=True)
    own = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    text = json.dumps({"format": FORMAT, "state": state})
    with beside(path) as work:
        made = work / "made"
        try:
            save_file(own, made, metadata={"vitc": text, "sha256": _digest(text, own)})
        except SafetensorError as problem:  # the tensors are sound: what fails is the disk
            raise OSError(f"{path} cannot be written: {problem}") from problem
        publish(made, path)


def read(path: Path, what: str, error: type[VitcError]) -> tuple[Tensors, dict[str, Any]]:
    """What was written, by the same version. `what` the file should be, and the type of the `error` if it is not."""
    try:
        open_plain(path).close()
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            text = metadata["vitc"]
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        head = json.loads(text)
        version, stated = head["format"], metadata.get("sha256")
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as problem:
        raise error(f"{path} is no {what} ({problem}); give another path, or delete it") from problem
    if version != FORMAT:
        raise error(f"{path} is a {what} of format {version}, this vitc reads {FORMAT}; delete it to begin again")
    found = _digest(text, tensors)
    if stated != found:
        raise error(
            f"{path} is damaged: it states the SHA-256 {stated}, its contents have {found}; delete it to begin again"
        )
    return tensors, head["state"]


def _digest(text: str, tensors: Mapping[str, torch.Tensor]) -> str:
    """Changes with the state and with any tensor's name, dtype, shape or bytes."""
    found = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(f"\0{name}\0{tensor.dtype}{list(tensor.shape)}".encode())
        found.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()
