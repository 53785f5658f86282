"""Pipelines as text: `drop-noops,prune{ratio=0.35},quantize-int8{calibrator=mse,skip=[head]}`.

Options ↔ text is derived from the dataclass fields, so the command line, logs, bundles and tests share one spelling,
and the printed text reproduces the run. Options at their default are not printed.
"""

from __future__ import annotations

import dataclasses
import json
import re
import types
import typing
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from vitc.errors import PipelineError, unknown
from vitc.pipeline.base import Pass
from vitc.pipeline.registry import get_pass, options_of

# Each matches where the reading stands and in one way only: what reading takes grows with the text and no faster.
_BLANKS = re.compile(r"\s*")
_NAME = re.compile(r"[A-Za-z][\w.-]*")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_PLAIN = re.compile(r'[^\s,\[\]{}"]+(?: +[^\s,\[\]{}"]+)*')

#: Characters, and passes. The longest that anybody needs has some thousands, and some tens.
MAX_LENGTH, MAX_PASSES = 1 << 20, 1000


def print_pipeline(passes: Sequence[Pass]) -> str:
    """The text that parses back to equal passes."""
    return ",".join(print_pass(p) for p in passes)


def print_pass(item: Pass) -> str:
    shown = []
    for name, field in options_of(type(item)).items():
        value = getattr(item, name)
        if value != _default(field):
            shown.append(f"{name}={_print_value(value)}")
    return f"{item.name}{{{','.join(shown)}}}" if shown else item.name


def parse_pipeline(text: str) -> tuple[Pass, ...]:
    """The passes a text names. Raises PipelineError with the place, the known passes or the known options."""
    if len(text) > MAX_LENGTH:
        raise PipelineError(f"a pipeline of {len(text)} characters; at most {MAX_LENGTH} are read")
    passes: list[Pass] = []
    reader = _Reader(text)
    while reader.at < len(text):
        if len(passes) == MAX_PASSES:
            raise PipelineError(f"a pipeline of more than {MAX_PASSES} passes")
        start = reader.at
        name = reader.match(_NAME)
        if name is None:
            raise _unreadable(text[start:])
        cls = get_pass(name)
        passes.append(cls(**(_options(cls, reader, start) if reader.take("{") else {})))
        if not reader.take(",") and reader.at < len(text):
            raise _unreadable(text[start:])
    if text.rstrip().endswith(","):
        raise PipelineError(f"the pipeline {_shown(text)} ends in a comma; a pass name is missing after it")
    return tuple(passes)


class _Reader:
    """A place in a text. What is asked for is taken with the blanks around it, or nothing is."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def match(self, pattern: re.Pattern[str]) -> str | None:
        found = pattern.match(self.text, self._skipped(self.at))
        if found is None:
            return None
        self.at = self._skipped(found.end())
        return found[0]

    def take(self, sign: str) -> bool:
        at = self._skipped(self.at)
        if not self.text.startswith(sign, at):
            return False
        self.at = self._skipped(at + len(sign))
        return True

    def _skipped(self, at: int) -> int:
        blanks = _BLANKS.match(self.text, at)
        assert blanks is not None
        return blanks.end()


def _options(cls: type[Pass], reader: _Reader, start: int) -> dict[str, Any]:
    """What stands between the braces of the pass that begins at `start`; the first brace has been read."""
    fields, hints = options_of(cls), typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    while not reader.take("}"):
        if reader.text.find("}", reader.at) < 0:
            raise _unreadable(reader.text[start:])
        here = reader.at
        name = reader.match(_NAME)
        raw = _value(reader) if name is not None and reader.take("=") else None
        closed = reader.take(",") or reader.text.startswith("}", reader.at)
        if name is None or raw is None or not closed:
            rest = reader.text[here:].partition("}")[0]
            raise PipelineError(
                f"cannot read the options of {cls.name!r} at {_shown(rest)}; the form is option=value,…"
            )
        if name not in fields:
            raise PipelineError(unknown(f"option of pass {cls.name!r}", name, fields))
        if name in values:
            raise PipelineError(f"option {name!r} of pass {cls.name!r} is given twice")
        values[name] = _parse_value(cls.name, name, raw, hints[name])
    return values


def _value(reader: _Reader) -> str | list[str] | None:
    """As it is written: one text, or a list of them."""
    if not reader.take("["):
        return reader.match(_QUOTED) or reader.match(_PLAIN)
    items: list[str] = []
    while not reader.take("]"):
        item = reader.match(_QUOTED) or reader.match(_PLAIN)
        if item is None or not (reader.take(",") or reader.text.startswith("]", reader.at)):
            return None
        items.append(item)
    return items


def _unreadable(rest: str) -> PipelineError:
    return PipelineError(f"cannot read the pipeline at {_shown(rest)}; the form is name{{option=value,…}},name,…")


def _shown(text: object) -> str:
    shown = repr(text)
    return shown if len(shown) <= 200 else f"{shown[:200]}…"


def _parse_value(pass_name: str, name: str, raw: str | list[str], hint: Any) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if raw == "none" and type(None) in args:
            return None
        hint = next(a for a in args if a is not type(None))
        return _parse_value(pass_name, name, raw, hint)
    if origin is tuple:
        items = raw if isinstance(raw, list) else [raw]
        return tuple(_parse_value(pass_name, name, item, args[0]) for item in items)
    if origin is typing.Literal and isinstance(raw, str):
        if raw not in args:
            raise PipelineError(unknown(f"value of option {name!r} of pass {pass_name!r}", raw, map(str, args)))
        return raw
    if hint is bool and raw in ("true", "false"):
        return raw == "true"
    if hint in (int, float) and isinstance(raw, str):
        with suppress(ValueError):
            return hint(raw)
    if hint is str and isinstance(raw, str):
        with suppress(ValueError):  # of JSON, and of half a character
            text = json.loads(raw) if raw.startswith('"') else raw
            text.encode()
            return text
    wanted = getattr(hint, "__name__", str(hint))
    shown = raw if isinstance(raw, str) else f"[{','.join(raw)}]"
    shown = shown if len(shown) <= 100 else f"{shown[:100]}…"
    raise PipelineError(f"option {name}={shown} of pass {pass_name!r} is not of type {wanted}")


def _print_value(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{','.join(_print_value(v) for v in value)}]"
    if isinstance(value, str) and not re.fullmatch(r"[\w.*/-]+", value):
        return json.dumps(value)
    return repr(value) if isinstance(value, float) else str(value)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return dataclasses.MISSING
