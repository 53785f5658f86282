"""The model's output structure as a JSON tree, so that nested outputs come back as the model returned them.

| kind | other keys | comes back as |
|---|---|---|
| `leaf` | `name`: an output's name | that output |
| `tuple`, `list` | `items`: trees | tuple, list |
| `dict` | `items`: name -> tree | dict |
| `dataclass` | `items`: field -> tree, `type`: "module:Class" | dict: the class is not imported |
| `constant` | `value`: null, bool, number or string | the value |

A caller that has the class (`vitc.compile`, beside torch) may pass `make=` to `rebuild` and get it back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from vitc.bundle import limits
from vitc.errors import BundleError

_KEYS = {
    "leaf": {"kind", "name"},
    "tuple": {"kind", "items"},
    "list": {"kind", "items"},
    "dict": {"kind", "items"},
    "dataclass": {"kind", "items", "type"},
    "constant": {"kind", "value"},
}

# A level of the tree is two of the manifest's JSON: an object, and its items.
_MAX_DEPTH = limits.DEPTH // 2 - 1


def leaf_names(tree: Any) -> list[str]:
    """The output names in the tree, in order. Raises BundleError where the tree is not as described above."""
    return list(_leaves(tree, "structure", 1))


def _leaves(tree: Any, where: str, depth: int) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        raise BundleError(f"the output structure is nested deeper than {_MAX_DEPTH}")
    kind = tree.get("kind") if isinstance(tree, Mapping) else tree
    if not isinstance(tree, Mapping) or not isinstance(kind, str) or kind not in _KEYS:
        raise BundleError(f"{where} has the kind {kind!r}; known kinds: {', '.join(_KEYS)}")
    if set(tree) != _KEYS[kind]:
        raise BundleError(f"{where} is a {kind} with the keys {sorted(tree)}; it must have {sorted(_KEYS[kind])}")
    if kind == "leaf":
        if not isinstance(tree["name"], str):
            raise BundleError(f"{where}.name must be an output's name, got {tree['name']!r}")
        yield tree["name"]
    elif kind == "constant":
        if not isinstance(tree["value"], bool | int | float | str | None):
            raise BundleError(f"{where}.value must be null, a bool, a number or a string, got {tree['value']!r}")
    else:
        items = tree["items"]
        kinds, word = ((list, tuple), "list") if kind in ("tuple", "list") else ((Mapping,), "mapping")
        if not isinstance(items, kinds):
            raise BundleError(f"{where}.items of a {kind} must be a {word}")
        for key, item in items.items() if isinstance(items, Mapping) else enumerate(items):
            yield from _leaves(item, f"{where}.items[{key!r}]", depth + 1)


def rebuild(
    tree: Mapping[str, Any],
    outputs: Mapping[str, Any],
    make: Callable[[str, dict[str, Any]], Any] = lambda _type, fields: fields,
) -> Any:
    """The outputs in the structure the model returned. `make(type, fields)` makes a dataclass; default: the
    dict.
    """
    kind = tree["kind"]
    if kind == "leaf":
        return outputs[tree["name"]]
    if kind == "constant":
        return tree["value"]
    items = tree["items"]
    if kind in ("tuple", "list"):
        values = [rebuild(item, outputs, make) for item in items]
        return tuple(values) if kind == "tuple" else values
    fields = {key: rebuild(item, outputs, make) for key, item in items.items()}
    return make(tree["type"], fields) if kind == "dataclass" else fields
