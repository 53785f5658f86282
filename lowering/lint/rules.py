"""The rules of rules.toml as records, and which engine they are asked for."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from vitc.errors import InputError, InternalError, unknown
from vitc.lowering.tensorrt.kinds import Kind
from vitc.targets import Target

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Severity = Literal["good", "note", "warning", "error"]
SEVERITIES: tuple[Severity, ...] = ("good", "note", "warning", "error")
REFUSED = "refused"


@dataclass(frozen=True)
class Engine:
    """An engine and the version the rules speak of."""

    name: str
    version: str
    title: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}".rstrip()

    def fits(self, spec: str) -> bool:
        """Whether an outcome for `spec`, "tensorrt" or "tensorrt 10.3", is one for this engine."""
        return spec in (self.name, str(self))


@dataclass(frozen=True)
class Outcome:
    """What some engines do in a situation.

    engines:  their names, with or without a version.
    kind:     of the layer; 'refused': they do not take it; None: no layer of its own.
    severity: good, note, warning or error.
    why:      what follows.
    evidence: who says so.
    """

    engines: tuple[str, ...]
    kind: Kind | Literal["refused"] | None
    severity: Severity
    why: str
    evidence: str


@dataclass(frozen=True)
class Rule:
    """A situation, and what to do about it."""

    id: str
    about: str
    remedy: str
    outcomes: tuple[Outcome, ...]

    def outcome(self, engine: Engine) -> Outcome | None:
        """What `engine` does; None: nothing worth a word."""
        return next((o for o in self.outcomes if any(engine.fits(spec) for spec in o.engines)), None)


@cache
def _data() -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_name("rules.toml").read_text(encoding="utf-8"))


@cache
def engines() -> tuple[Engine, ...]:
    """The engines the rules know."""
    return tuple(Engine(**entry) for entry in _data()["engine"])


@cache
def rules() -> dict[str, Rule]:
    """All rules by id."""
    found = {entry["id"]: _rule(entry) for entry in _data()["rule"]}
    if len(found) != len(_data()["rule"]):
        raise InternalError("two rules of lowering/lint/rules.toml have one id")
    return found


def _rule(entry: dict[str, Any]) -> Rule:
    outcomes = tuple(
        Outcome(tuple(o["engines"]), _kind(o.get("kind")), o["severity"], o["why"], o["evidence"])
        for o in entry["outcomes"]
    )
    return Rule(entry["id"], entry["about"], entry.get("remedy", ""), outcomes)


def _kind(text: str | None) -> Kind | Literal["refused"] | None:
    if text is None:
        return None
    return "refused" if text == REFUSED else Kind(text)


def engine_named(text: str) -> Engine:
    """The engine "tensorrt 10.3". Raises InputError listing those there are."""
    for engine in engines():
        if text == str(engine):
            return engine
    raise InputError(unknown("engine", text, map(str, engines())))


def engine_for(target: Target, quantized: bool = False) -> Engine:
    """The engine a target is linted for by default: the lowest TensorRT it may meet, or the CPU engine used here."""
    if target.kind == "cpu":
        from vitc.lowering.cpu.choose import native_refusal, preferred

        return engine_named("native" if quantized and native_refusal() is None else preferred())
    lowest = _numbers(target.tensorrt_min or "0")
    known = [engine for engine in engines() if engine.name == "tensorrt"]
    return next((engine for engine in known if _numbers(engine.version) >= lowest), known[-1])


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
