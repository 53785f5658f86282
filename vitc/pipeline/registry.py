"""Names of passes. vitc's own, a user's `@register_pass`, and entry points of the group `vitc.passes`."""

from __future__ import annotations

import dataclasses
from importlib import import_module
from importlib.metadata import entry_points
from typing import TypeVar

from vitc.errors import PipelineError, unknown
from vitc.pipeline.base import Pass

P = TypeVar("P", bound=type[Pass])

_registry: dict[str, type[Pass]] = {}
#: Names of 0.1, which saved pipelines and bundles still hold.
_FORMER_NAMES = {"recognise-gelu": "recognize-gelu", "recognise-layer-norm": "recognize-layer-norm"}
_loaded = False


def register_pass(cls: P) -> P:
    """Class decorator: makes a pass known by its name.

    Raises PipelineError if the class is not a frozen dataclass, has no name, or the name belongs to another class.
    """
    home = _home(cls)
    if not cls.name:
        raise PipelineError(f"{home} has no name; set the class attribute name = 'my-pass'")
    parameters = getattr(cls, "__dataclass_params__", None)
    if parameters is None or not parameters.frozen:
        raise PipelineError(f"pass {cls.name!r} ({home}) must be a frozen dataclass; put @dataclass(frozen=True) below")
    other = _registry.get(cls.name)
    if other is not None and _home(other) != home:
        raise PipelineError(f"pass name {cls.name!r} is defined twice: in {_home(other)} and in {home}; rename one")
    _registry[cls.name] = cls
    return cls


def known_passes() -> dict[str, type[Pass]]:
    """Every known pass by name, vitc's own and the registered ones."""
    _load()
    return dict(sorted(_registry.items()))


def get_pass(name: str) -> type[Pass]:
    """The pass class called `name`; PipelineError, with the known and nearest names, if there is none."""
    _load()
    name = _FORMER_NAMES.get(name, name)
    if name not in _registry:
        raise PipelineError(unknown("pass", name, _registry, "List them with: vitc passes"))
    return _registry[name]


def options_of(cls: type[Pass]) -> dict[str, dataclasses.Field[object]]:
    """The options of a pass: its dataclass fields by name."""
    return {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]


def _load() -> None:
    global _loaded
    if _loaded:
        return
    _loaded = True
    import_module("vitc.passes.all")
    for point in entry_points(group="vitc.passes"):
        loaded = point.load()
        if isinstance(loaded, type) and issubclass(loaded, Pass):
            if loaded.name != point.name:
                raise PipelineError(
                    f"entry point {point.name!r} ({point.value}) holds the pass {loaded.name!r}; both names must be"
                    " equal"
                )
            register_pass(loaded)
        else:
            raise PipelineError(f"entry point {point.name!r} ({point.value}) is not a vitc.Pass class")


def _home(cls: type[Pass]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
