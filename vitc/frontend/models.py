"""Models by name: timm:NAME, hf:NAME, torchvision:NAME, file.py:factory, or an exported .pt2 file."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from vitc.errors import InputError, missing, unknown
from vitc.frontend.torchvision_import import ensure_torchvision_imports


def load_model(name: str, pretrained: bool = True) -> torch.nn.Module | torch.export.ExportedProgram:
    """The model a name stands for, in eval mode. `pretrained` loads weights where the zoo has them.

    Raises InputError for a form, file or factory that does not exist; MissingDependencyError without the zoo's package.
    """
    if name.endswith(".pt2"):
        if not Path(name).is_file():
            raise InputError(f"there is no file {name!r}; export one with torch.export.save(program, path)")
        return torch.export.load(name)
    kind, _, rest = name.rpartition(":") if ".py:" in name else name.partition(":")
    if kind.endswith(".py"):
        return _ready(_from_file(Path(kind), rest), name)
    if kind not in _ZOOS or not rest:
        raise InputError(
            f"cannot read the model name {name!r}; the forms are timm:NAME, hf:NAME, torchvision:NAME, file.py:factory,"
            " file.pt2"
        )
    ensure_torchvision_imports()  # timm and transformers import it too
    return _ready(_ZOOS[kind](rest, pretrained), name)


def _timm(name: str, pretrained: bool) -> Any:
    timm = _package("timm")
    if not timm.is_model(name):
        raise InputError(unknown("timm model", name, timm.list_models("*vit*"), "List them with timm.list_models()"))
    return timm.create_model(name, pretrained=pretrained)


def _transformers(name: str, pretrained: bool) -> Any:
    """With the head its config names (ViTForImageClassification, …), or AutoModel's choice without one."""
    transformers = _package("transformers")
    config = transformers.AutoConfig.from_pretrained(name)
    kind = getattr(transformers, (config.architectures or ["AutoModel"])[0], transformers.AutoModel)
    if pretrained:
        return kind.from_pretrained(name)
    return kind.from_config(config) if kind is transformers.AutoModel else kind(config)


def _torchvision(name: str, pretrained: bool) -> Any:
    models = importlib.import_module(f"{_package('torchvision').__name__}.models")
    if name not in models.list_models():
        raise InputError(unknown("torchvision model", name, models.list_models()))
    if not pretrained:
        return models.get_model(name)
    weights = models.get_model_weights(name).DEFAULT
    model = models.get_model(name, weights=weights)
    model.vitc_weights = weights  # its labels and transforms, which the model itself does not know
    return model


_ZOOS: dict[str, Callable[[str, bool], Any]] = {"timm": _timm, "hf": _transformers, "torchvision": _torchvision}


def _package(name: str) -> Any:
    if importlib.util.find_spec(name) is None:
        raise missing(name, f"a model of {name}", "zoo")
    return importlib.import_module(name)


def function_in(name: str, what: str) -> Callable[..., Any]:
    """The function that `file.py:function` names. `what`: the argument that it was given for.

    Raises InputError for another form, and for a file or a function that does not exist.
    """
    path, _, attribute = name.rpartition(":")
    if not path.endswith(".py") or not attribute:
        raise InputError(f"{what} takes file.py:function, got {name!r}")
    found = _attribute(Path(path), attribute, "function")
    if not callable(found):
        raise InputError(f"{what}: {attribute} in {path} is a {type(found).__name__}, not a function")
    return found  # type: ignore[no-any-return]


def _from_file(path: Path, factory: str) -> Any:
    return _attribute(path, factory, "factory")()


def _attribute(path: Path, name: str, kind: str) -> Any:
    """What a Python file calls `name`; the file is run."""
    if not path.is_file():
        raise InputError(f"there is no file {str(path)!r}")
    ensure_torchvision_imports()  # the file may import timm
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, name):
        functions = [
            n for n, v in vars(module).items() if getattr(v, "__module__", None) == spec.name and not n.startswith("_")
        ]
        raise InputError(unknown(f"{kind} in {path}", name, functions))
    return getattr(module, name)


def _ready(model: Any, name: str) -> torch.nn.Module:
    if not isinstance(model, torch.nn.Module):
        raise InputError(f"{name} gave a {type(model).__name__}, not a torch.nn.Module")
    return model.eval()
