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
from typing import Any

from vitc.errors import PipelineError, unknown
from vitc.pipeline.base import Pass
from vitc.pipeline.registry import get_pass, options_of

_ITEM = re.compile(r"\s*([A-Za-z][\w.-]*)\s*(?:\{([^{}]*)\})?\s*(,|$)")
_OPTION = re.compile(r"\s*([A-Za-z]\w*)\s*=\s*(\[[^\]]*\]|\"[^\"]*\"|[^,\[\]]+?)\s*(,|$)")


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
    passes, position = [], 0
    while position < len(text):
        match = _ITEM.match(text, position)
        if not match:
            raise PipelineError(
                f"cannot read the pipeline at {text[position:]!r}; the form is name{{option=value,…}},name,…"
            )
        passes.append(_make(get_pass(match[1]), match[2] or ""))
        position = match.end()
    if text.rstrip().endswith(","):
        raise PipelineError(f"the pipeline {text!r} ends in a comma; a pass name is missing after it")
    return tuple(passes)


def _make(cls: type[Pass], text: str) -> Pass:
    fields, hints = options_of(cls), typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    position = 0
    while position < len(text):
        match = _OPTION.match(text, position)
        if not match:
            raise PipelineError(
                f"cannot read the options of {cls.name!r} at {text[position:]!r}; the form is option=value,…"
            )
        name, raw = match[1], match[2]
        if name not in fields:
            raise PipelineError(unknown(f"option of pass {cls.name!r}", name, fields))
        if name in values:
            raise PipelineError(f"option {name!r} of pass {cls.name!r} is given twice")
        values[name] = _parse_value(cls.name, name, raw, hints[name])
        position = match.end()
    return cls(**values)


def _parse_value(pass_name: str, name: str, raw: str, hint: Any) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if raw == "none" and type(None) in args:
            return None
        hint = next(a for a in args if a is not type(None))
        return _parse_value(pass_name, name, raw, hint)
    if origin is tuple:
        inner = raw.removeprefix("[").removesuffix("]").strip()
        return tuple(_parse_value(pass_name, name, v.strip(), args[0]) for v in inner.split(",")) if inner else ()
    if origin is typing.Literal:
        if raw not in args:
            raise PipelineError(unknown(f"value of option {name!r} of pass {pass_name!r}", raw, map(str, args)))
        return raw
    if hint is bool and raw in ("true", "false"):
        return raw == "true"
    if hint in (int, float):
        try:
            return hint(raw)
        except ValueError:
            pass
    if hint is str:
        return json.loads(raw) if raw.startswith('"') else raw
    wanted = getattr(hint, "__name__", str(hint))
    raise PipelineError(f"option {name}={raw} of pass {pass_name!r} is not of type {wanted}")


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
