"""The pruning plan: what goes, as an artefact that is saved, shown, and replayed on another checkpoint of the same
model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vitc.errors import PassError

_FORMAT, _VERSION = "vitc-prune-plan", 1


@dataclass(frozen=True)
class Cost:
    """Of the whole model or a block: elements of weights, their bytes, operations for one image, predicted ms (batch 1;
    None where the target has no rates)."""

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
    """What happens to one group: `removed` of its `units`; `ms`: predicted time of its block before and after, all cuts
    taken together (None where the target has no rates). A refused cut has a `reason`."""

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
    """`fingerprint`: of the graph it was made for, weights not included. `steps`: the cuts of each step, in order (an
    iterative schedule has several). `before`, `after`: the costs by block of the model."""

    fingerprint: str
    target: str
    criterion: str
    steps: tuple[tuple[Cut, ...], ...]
    before: Mapping[str, Cost] = field(default_factory=dict)
    after: Mapping[str, Cost] = field(default_factory=dict)

    def save(self, path: str | Path) -> None:
        """Writes the plan as JSON."""
        data = {"format": _FORMAT, "version": _VERSION, **asdict(self)}
        Path(path).write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> PrunePlan:
        """Reads a plan. Raises PassError where the file is missing, damaged, or no plan that this vitc reads."""
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise PassError(
                f"there is no pruning plan {str(path)!r}; save one with vitc.prune(...).plan.save(path)"
            ) from None
        except (OSError, ValueError) as error:
            raise PassError(f"{str(path)!r} is not a pruning plan: {error}") from error
        if not isinstance(data, dict) or data.get("format") != _FORMAT:
            raise PassError(f"{str(path)!r} is not a pruning plan: its format is not {_FORMAT!r}")
        if data.get("version") != _VERSION:
            raise PassError(
                f"{str(path)!r} is a pruning plan of version {data.get('version')}, this vitc reads {_VERSION}; prune"
                " again to have one"
            )
        try:
            return cls(
                fingerprint=data["fingerprint"],
                target=data["target"],
                criterion=data["criterion"],
                steps=tuple(tuple(_cut(c) for c in step) for step in data["steps"]),
                before={n: Cost(**c) for n, c in data["before"].items()},
                after={n: Cost(**c) for n, c in data["after"].items()},
            )
        except (AttributeError, KeyError, TypeError) as error:
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


def _cut(data: dict[str, Any]) -> Cut:
    ms = data["ms"]
    return Cut(**{**data, "removed": tuple(data["removed"]), "ms": None if ms is None else tuple(ms)})
