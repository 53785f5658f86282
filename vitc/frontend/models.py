"""Models by name: timm:NAME, hf:NAME, torchvision:NAME, file.py:factory, or an exported .pt2 file."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vitc.errors import InputError, missing, unknown
from vitc.frontend.checkpoint import load_checkpoint
from vitc.frontend.torchvision_import import ensure_torchvision_imports


@dataclass(frozen=True)
class Head:
    """What of a zoo's model is another than its name says.

    num_classes: outputs of the classifier; None: the zoo's.
    size: (height, width) of the input in pixels; None: the zoo's.
    """

    num_classes: int | None = None
    size: tuple[int, int] | None = None


def load_model(
    name: str,
    pretrained: bool = True,
    *,
    checkpoint: str | Path | None = None,
    num_classes: int | None = None,
    size: int | tuple[int, int] | None = None,
) -> torch.nn.Module | torch.export.ExportedProgram:
    """The model a name stands for, in eval mode.

    name: timm:NAME (timm:local-dir:FOLDER too), hf:NAME or hf:FOLDER, torchvision:NAME, file.py:factory, file.pt2.
    pretrained: load the zoo's weights where it has them; not with a checkpoint.
    checkpoint: weights of one's own, .safetensors or what torch.save wrote.
    num_classes: outputs of the classifier, where they are not the zoo's.
    size: side, or (height, width), of the input in pixels, where it is not the zoo's.

    Raises InputError for a form, file, factory or checkpoint that does not exist or fit, and for weights that can't be
    fetched; MissingDependencyError without the zoo's package.
    """
    head = Head(num_classes, (size, size) if isinstance(size, int) else size)
    if name.endswith(".pt2"):
        _refuse(name, "an exported program is as it was exported", checkpoint, head)
        if not Path(name).is_file():
            raise InputError(f"there is no file {name!r}; export one with torch.export.save(program, path)")
        return torch.export.load(name)
    kind, _, rest = name.rpartition(":") if ".py:" in name else name.partition(":")
    if kind.endswith(".py"):
        _refuse(name, "the factory decides", None, head)
        model = _ready(_from_file(Path(kind), rest), name)
    elif kind not in _ZOOS or not rest:
        raise InputError(
            f"cannot read the model name {name!r}; the forms are timm:NAME, hf:NAME, torchvision:NAME, file.py:factory,"
            " file.pt2; weights of your own go to such a model with --checkpoint file (checkpoint=)"
        )
    else:
        ensure_torchvision_imports()  # timm and transformers import it too
        model = _ready(_fetched(kind, rest, pretrained and checkpoint is None, head), name)
    if checkpoint is not None:
        load_checkpoint(model, checkpoint)
    return model


def _refuse(name: str, why: str, checkpoint: str | Path | None, head: Head) -> None:
    given = {"checkpoint": checkpoint, "num_classes": head.num_classes, "size": head.size}
    for argument, value in given.items():
        if value is not None:
            raise InputError(f"{argument} is for models of a zoo, and {name} is none: {why}")


def _fetched(kind: str, name: str, pretrained: bool, head: Head) -> Any:
    try:
        return _ZOOS[kind](name, pretrained, head)
    except (OSError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        remedy = "check the name, num_classes and size"
        if pretrained:
            remedy = (
                "without a network, give --checkpoint file (checkpoint=) or --random-weights (pretrained=False), or "
                "name a local folder"
            )
        raise InputError(f"{kind}:{name} cannot be made: {type(error).__name__}: {reason}; {remedy}") from error


def _timm(name: str, pretrained: bool, head: Head) -> Any:
    timm = _package("timm")
    if ":" not in name and not timm.is_model(name.partition(".")[0]):
        raise InputError(unknown("timm model", name, timm.list_models(), "List them with timm.list_models()"))
    options: dict[str, Any] = {}
    if head.num_classes is not None:
        options["num_classes"] = head.num_classes
    if head.size is not None:
        options["img_size"] = head.size
    return timm.create_model(name, pretrained=pretrained or name.startswith("local-dir:"), **options)


def _transformers(name: str, pretrained: bool, head: Head) -> Any:
    """With the head its config names (ViTForImageClassification, …), or AutoModel's choice without one."""
    transformers = _package("transformers")
    config = transformers.AutoConfig.from_pretrained(name)
    if head.num_classes is not None:
        config.num_labels = head.num_classes
    if head.size is not None:
        square = head.size[0] == head.size[1]
        getattr(config, "vision_config", config).image_size = head.size[0] if square else head.size
    kind = getattr(transformers, (config.architectures or ["AutoModel"])[0], transformers.AutoModel)
    if pretrained:
        return kind.from_pretrained(name, config=config)
    return kind.from_config(config) if kind is transformers.AutoModel else kind(config)


def _torchvision(name: str, pretrained: bool, head: Head) -> Any:
    models = importlib.import_module(f"{_package('torchvision').__name__}.models")
    if name not in models.list_models():
        raise InputError(unknown("torchvision model", name, models.list_models()))
    if pretrained and (head.num_classes is not None or head.size is not None):
        raise InputError(
            f"torchvision's weights of {name} are for its own classes and size; with --num-classes or --size give "
            "--checkpoint (checkpoint=) or --random-weights (pretrained=False) too"
        )
    options: dict[str, Any] = {}
    if head.num_classes is not None:
        options["num_classes"] = head.num_classes
    if head.size is not None:
        options["image_size"] = head.size[0]
    if not pretrained:
        return models.get_model(name, **options)
    weights = models.get_model_weights(name).DEFAULT
    model = models.get_model(name, weights=weights)
    model.vitc_weights = weights  # its labels and transforms, which the model itself does not know
    return model


_ZOOS: dict[str, Callable[[str, bool, Head], Any]] = {"timm": _timm, "hf": _transformers, "torchvision": _torchvision}


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
    """What the factory gives: a function or class without arguments, or a model that stands in the file."""
    found = _attribute(path, factory, "factory")
    if isinstance(found, torch.nn.Module):
        return found
    if not callable(found):
        raise InputError(f"{factory} in {path} is a {type(found).__name__}; name a function that returns a model")
    needed = [
        p.name
        for p in inspect.signature(found).parameters.values()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if needed:
        raise InputError(
            f"{factory} in {path} needs arguments ({', '.join(needed)}), and a name can't give any; write a function "
            "without arguments that calls it"
        )
    return found()


def _attribute(path: Path, name: str, kind: str) -> Any:
    """What a Python file calls `name`; the file is run."""
    if not path.is_file():
        raise InputError(f"there is no file {str(path)!r}")
    ensure_torchvision_imports()  # the file may import timm
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        frames = reversed(traceback.extract_tb(error.__traceback__))
        line = next((frame.lineno for frame in frames if frame.filename == str(path)), None)
        at = f" at line {line}" if line is not None else ""
        raise InputError(f"{path} cannot be run{at}: {type(error).__name__}: {error}") from error
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
