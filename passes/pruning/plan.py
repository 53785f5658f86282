"""The pruning plan: what goes, as an artefact that is saved, shown, and replayed on another checkpoint of the same
model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vitc.errors import PassError
from vitc.files import sealed_json

_FORMAT, _VERSION = "vitc-prune-plan", 2


@dataclass(frozen=True)
class Cost:
    """What the whole model, or a block of it, costs.

    params: elements of weights.
    bytes:  of these weights.
    flops:  operations for one image, a multiply-add being two.
    ms:     predicted, batch 1; None where the target has no rates.
    """

    params: float
    bytes: float
    flops: float
    ms: float | None


def total(costs: Iterable[Cost]) -> Cost:
    """The sum."""
    costs = list(costs)
    ms = [c.ms for c in costs if c.ms is not None]
    return Cost(
        sum(c.params for c in costs), sum(c.bytes for c in costs), sum(c.flops for c in costs),
        sum(ms) if len(ms) == len(costs) else None,
    )  # fmt: skip


@dataclass(frozen=True)
class Cut:
    """What happens to one group.

    group:   its name.
    kind:    its kind.
    units:   how many it has.
    removed: the indices of those that go.
    ms:      predicted time of its block before and after, all cuts taken together; None where the target has no rates.
    reason:  why a cut was refused; None where it was taken.
    """

    group: str
    kind: str
    units: int
    removed: tuple[int, ...]
    ms: tuple[float, float] | None
    reason: str | None = None

    def __str__(self) -> str:
        what = f"{self.group}: {self.units} → {self.units - len(self.removed)}"
        if self.reason is not None:
            return f"{self.group}: {self.units} stay, {self.reason}"
        if self.ms is None:
            return what
        return f"{what}, block {self.ms[0]:.3f} → {self.ms[1]:.3f} ms predicted"


@dataclass(frozen=True)
class PrunePlan:
    """What goes, as an artefact.

    fingerprint: of the graph it was made for, weights not included.
    target:      the target's name.
    criterion:   what chose.
    steps:       the cuts of each step, in order; an iterative schedule has several.
    before:      the costs before, by block of the model.
    after:       the costs after.
    """

    fingerprint: str
    target: str
    criterion: str
    steps: tuple[tuple[Cut, ...], ...]
    before: Mapping[str, Cost] = field(default_factory=dict)
    after: Mapping[str, Cost] = field(default_factory=dict)

    def save(self, path: str | Path) -> None:
        """Writes the plan as JSON with its SHA-256; an old file at `path` is replaced at once. Raises PassError where
        nothing can be written there."""
        try:
            sealed_json.write(Path(path), {"format": _FORMAT, "version": _VERSION, **asdict(self)})
        except (OSError, ValueError) as error:
            raise PassError(f"the pruning plan cannot be saved at {str(path)!r}: {error}") from error

    @classmethod
    def load(cls, path: str | Path) -> PrunePlan:
        """Reads a plan. Raises PassError where the file is missing, damaged, or no plan that this vitc reads."""
        try:
            data = sealed_json.read(Path(path))
        except FileNotFoundError:
            raise PassError(
                f"there is no pruning plan {str(path)!r}; save one with vitc.prune(...).plan.save(path)"
            ) from None
        except (OSError, ValueError) as error:
            raise PassError(f"{str(path)!r} is not a pruning plan: {error}") from error
        if data.get("format") != _FORMAT:
            raise PassError(f"{str(path)!r} is not a pruning plan: its format is not {_FORMAT!r}")
        if data.get("version") != _VERSION:
            raise PassError(
                f"{str(path)!r} is a pruning plan of version {data.get('version')!r}, this vitc reads {_VERSION}; prune"
                " again to have one"
            )
        try:
            data = sealed_json.unseal(data)
        except ValueError as error:
            raise PassError(f"the pruning plan {str(path)!r} is damaged ({error}); save it again") from error
        try:
            return cls(
                fingerprint=_text(data["fingerprint"]),
                target=_text(data["target"]),
                criterion=_text(data["criterion"]),
                steps=tuple(tuple(_cut(c) for c in step) for step in data["steps"]),
                before={n: _cost(c) for n, c in data["before"].items()},
                after={n: _cost(c) for n, c in data["after"].items()},
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise PassError(f"the pruning plan {str(path)!r} is damaged ({error!r}); save it again") from error

    def total(self, which: str) -> Cost:
        """The sum over the blocks, `which` being 'before' or 'after'."""
        blocks: Mapping[str, Cost] = getattr(self, which)
        return total(blocks.values())

    def text(self) -> str:
        """A table by block, then the cuts, for a terminal."""
        header = f"{'block':<28} {'params':>19} {'MB':>15} {'GFLOP':>15} {'ms predicted':>17}"
        lines = [f"pruned by {self.criterion} for {self.target}", header]
        gone = Cost(0.0, 0.0, 0.0, 0.0)
        for name, a in [*self.before.items(), ("total", self.total("before"))]:
            b = self.after.get(name, gone) if name != "total" else self.total("after")
            lines.append(
                f"{name:<28} {a.params:>9,.0f} →{b.params:>8,.0f} {a.bytes / 1e6:>6.2f} → {b.bytes / 1e6:>5.2f} "
                f"{a.flops / 1e9:>6.2f} → {b.flops / 1e9:>5.2f} {_ms(a):>7} → {_ms(b):>6}"
            )
        for i, step in enumerate(self.steps):
            lines += [f"step {i + 1} of {len(self.steps)}"] if len(self.steps) > 1 else []
            lines += [f"  {cut}" for cut in step if cut.removed or cut.reason]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.text()


def _ms(cost: Cost) -> str:
    return "?" if cost.ms is None else f"{cost.ms:.3f}"


# What a plan's file says, made into its records: TypeError and KeyError where it is not of their types.


def _cut(data: Mapping[str, Any]) -> Cut:
    ms, reason = data["ms"], data["reason"]
    return Cut(
        group=_text(data["group"]),
        kind=_text(data["kind"]),
        units=_whole(data["units"]),
        removed=tuple(_whole(unit) for unit in data["removed"]),
        ms=None if ms is None else (_number(ms[0]), _number(ms[1])),
        reason=None if reason is None else _text(reason),
    )


def _cost(data: Mapping[str, Any]) -> Cost:
    ms = data["ms"]
    params, size, flops = (_number(data[key]) for key in ("params", "bytes", "flops"))
    return Cost(params, size, flops, None if ms is None else _number(ms))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} is no number")
    return value


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r} is no whole number")
    return value
