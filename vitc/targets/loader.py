"""Targets from TOML: the ones that come with vitc by name, a user's own by path.

The accepted keys and their types are the fields of `Target`; nothing is listed twice.
"""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from vitc.errors import TargetError, unknown
from vitc.files.plain import read_plain
from vitc.targets.target import Target

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_HERE = Path(__file__).parent
#: A target's file has some kilobytes.
MAX_BYTES = 1 << 20
# Whole numbers are bytes, counts and MHz; a float holds all of these exactly.
_MAX_INT = 1 << 53
# Of a target on another, and so on.
_MAX_BASES = 16
# Tables and lists in one another; a target's own go three deep.
_MAX_DEPTH = 16


def available() -> list[str]:
    """The names of the targets that come with vitc, sorted."""
    return sorted(path.stem for path in _HERE.glob("*.toml"))


def load(target: str | os.PathLike[str] | Target) -> Target:
    """The target of that name, or the one described by that .toml file; a Target is itself.

    A file may start from another target with `base = "orin"` and give only what differs.
    Raises `TargetError` for an unknown name and for a file that is missing, not TOML, or not a target.
    """
    if isinstance(target, Target):
        return target
    text = os.fspath(target)
    if text.endswith(".toml"):
        return _from_file(Path(text), seen=())
    if "\0" in text or text not in available():
        raise TargetError(unknown("target", text, available(), "or a path to a .toml file"))
    return _bundled(text)


def from_dict(data: Mapping[str, Any], origin: str = "target") -> Target:
    """A target from plain data, as `Target.to_dict` or TOML gives it; `origin` names it in errors."""
    target: Target = _record(Target, data, origin, prefix="")
    return target


@cache
def _bundled(name: str) -> Target:
    return _from_file(_HERE / f"{name}.toml", seen=())


def _from_file(path: Path, seen: tuple[Path, ...]) -> Target:
    try:
        data = tomllib.loads(read_plain(path, MAX_BYTES).decode("utf-8"))
        home = path.resolve()
    except FileNotFoundError:
        raise TargetError(f"target file {str(path)!r} does not exist; known names: {', '.join(available())}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise TargetError(f"target file {str(path)!r} cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, and a number of 5,000 digits
        raise TargetError(f"target file {str(path)!r} is not valid TOML: {error}") from error
    _check_depth(data, path)
    if home in seen or len(seen) > _MAX_BASES:
        raise TargetError(f"{path}: its base leads back to itself; start from one of {', '.join(available())}")
    base = data.pop("base", None)
    if base is not None:
        data = _over(_base(base, path, (*seen, home)).to_dict(), data)
    return from_dict(data, origin=str(path))


def _check_depth(data: Any, path: Path) -> None:
    level, depth = [data], 0
    while level:
        depth += 1
        if depth > _MAX_DEPTH:
            raise TargetError(f"target file {str(path)!r} nests tables deeper than {_MAX_DEPTH}; a target does not")
        level = [
            inner
            for value in level
            if isinstance(value, (dict, list))
            for inner in (value.values() if isinstance(value, dict) else value)
        ]


def _base(base: Any, path: Path, seen: tuple[Path, ...]) -> Target:
    if not isinstance(base, str):
        raise TargetError(f"{path}: key 'base' must be a string, not {_spelled(base)}")
    if base.endswith(".toml"):
        return _from_file(path.parent / base, seen)
    return load(base)


def _over(base: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """`data` laid over `base`, tables merged key by key. A figure that changes loses the base's source."""
    changed = {key for key, _ in _flat(data)}
    kept = {key: text for key, text in base["sources"].items() if key not in changed}
    merged: dict[str, Any] = {**base, "sources": kept}
    for key, value in data.items():
        old = merged.get(key)
        merged[key] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _record(record: type[Any], data: Any, origin: str, prefix: str) -> Any:
    if not isinstance(data, Mapping):
        raise TargetError(f"{origin}: {_key(prefix)} must be a table, not {_spelled(data)}")
    known = {item.name: item for item in fields(record)}
    for key in data:
        if key not in known:
            raise TargetError(f"{origin}: {unknown('key', prefix + key, [prefix + name for name in known])}")
    required = [name for name, item in known.items() if item.default is MISSING and item.default_factory is MISSING]
    missing = [prefix + name for name in required if name not in data]
    if missing:
        allowed = ", ".join(prefix + name for name in known)
        raise TargetError(f"{origin}: missing {', '.join(missing)}; allowed keys: {allowed}")
    hints = get_type_hints(record)
    values = {key: _value(hints[key], value, origin, prefix + key) for key, value in data.items()}
    try:
        return record(**values)
    except TargetError as error:
        raise TargetError(f"{origin}: {error}") from None


def _value(hint: Any, value: Any, origin: str, where: str) -> Any:
    """`value` as the type `hint` of a field, or a `TargetError` that names the key."""
    if get_origin(hint) in (Union, types.UnionType):
        if value is None:
            return None
        (hint,) = (option for option in get_args(hint) if option is not type(None))
    if is_dataclass(hint) and isinstance(hint, type):
        return _record(hint, value, origin, f"{where}.")
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            allowed = ", ".join(repr(option) for option in get_args(hint))
            raise TargetError(f"{origin}: {_key(where)} is {value!r}; allowed: {allowed}")
        return value
    if get_origin(hint) is tuple:
        _expect(isinstance(value, (list, tuple)), "a list", value, origin, where)
        return tuple(_value(get_args(hint)[0], entry, origin, f"{where}[{i}]") for i, entry in enumerate(value))
    if get_origin(hint) is dict:
        _expect(isinstance(value, Mapping), "a table", value, origin, where)
        # TOML nests a dotted key ('utilisation.memory = …'); a source may be written either way.
        return {key: _value(str, text, origin, f"{where}.{key}") for key, text in _flat(value)}
    if hint in (int, float):
        kinds, wanted = ((int,), "an integer") if hint is int else ((int, float), "a number")
        _expect(isinstance(value, kinds) and not isinstance(value, bool), wanted, value, origin, where)
        _expect(-_MAX_INT <= value <= _MAX_INT, f"{wanted} up to {_MAX_INT}", value, origin, where)
        return hint(value)
    if isinstance(value, str):
        _expect(value.isprintable(), "text that can be printed", value, origin, where)
    _expect(isinstance(value, hint), {str: "a string", bool: "true or false"}[hint], value, origin, where)
    return value


def _flat(table: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for key, value in table.items():
        flat += _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(prefix + key, value)]
    return flat


def _expect(holds: bool, wanted: str, value: Any, origin: str, where: str) -> None:
    if not holds:
        raise TargetError(f"{origin}: {_key(where)} must be {wanted}, not {_spelled(value)}")


def _key(where: str) -> str:
    return f"key {where.rstrip('.')!r}"


def _spelled(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 200 else text[:200] + '…'} ({type(value).__name__})"
