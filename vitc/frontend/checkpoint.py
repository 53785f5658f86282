"""Weights of one's own: a .safetensors file, or one that torch.save wrote, into a model."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vitc.errors import InputError

#: Where training scripts keep the weights in what they save: timm, transformers' Trainer, Lightning, DINO.
_HOMES = ("state_dict", "model", "model_state_dict", "teacher", "module")
#: What wrappers put before each name: DataParallel, torch.compile, Lightning.
_PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.")
_SHOWN = 3


def load_checkpoint(model: torch.nn.Module, path: str | Path) -> None:
    """Puts the weights of a file into a model, in place. Nothing of the file is run: pickles hold tensors only.

    Raises InputError for a file that is not there or holds no weights, and, naming them, for weights that are missing,
    left over, or of another shape.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no checkpoint {str(path)!r}")
    state = _unwrapped(_read(path), model, path)
    own = model.state_dict()
    wrong = [name for name in own if name in state and own[name].shape != state[name].shape]
    if wrong:
        shapes = "; ".join(
            f"{name} is {list(state[name].shape)} in the file and {list(own[name].shape)} in the model"
            for name in wrong[:_SHOWN]
        )
        raise InputError(
            f"{path} does not fit the model: {shapes}{_more(wrong)}. A head for another number of classes: "
            "--num-classes (num_classes=); positions for another input size: --size (size=)"
        )
    missing, left = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or left:
        parts = [
            f"{text}: {', '.join(names[:_SHOWN])}{_more(names)}"
            for text, names in (("the file lacks", missing), ("the model has no", left))
            if names
        ]
        raise InputError(f"{path} holds the weights of another model. {'; '.join(parts)}")
    model.load_state_dict(state)


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, ValueError, RuntimeError, EOFError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{path} holds no weights that can be read without running code ({reason}); save them with "
            "torch.save(model.state_dict(), path), or as .safetensors"
        ) from error
    except Exception as error:
        if type(error).__name__ != "SafetensorError":
            raise
        raise InputError(f"{path} is damaged ({error}); copy it again") from error


def _unwrapped(found: Any, model: torch.nn.Module, path: Path) -> dict[str, torch.Tensor]:
    """The weights by the model's own names."""
    for home in _HOMES:
        if isinstance(found, Mapping) and isinstance(found.get(home), Mapping):
            found = found[home]
    if not isinstance(found, Mapping) or not found or not all(isinstance(v, torch.Tensor) for v in found.values()):
        raise InputError(
            f"{path} holds no table of weights; save model.state_dict(), alone or below one of: {', '.join(_HOMES)}"
        )
    state, own = dict(found), model.state_dict().keys()
    for prefix in _PREFIXES:
        if state.keys() != own and all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _more(names: list[str]) -> str:
    return f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
