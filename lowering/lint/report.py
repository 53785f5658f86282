"""What the lint says: a kind for each product, convolution and attention, and what is wrong where."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from vitc.cost.records import block_of
from vitc.lowering.lint.rules import REFUSED, SEVERITIES, Engine, Outcome, Rule, Severity
from vitc.lowering.tensorrt.kinds import Kind
from vitc.printable import printable


@dataclass(frozen=True)
class Verdict:
    """A rule met at a node. `nodes`: all that become the one layer, where it has one: the first is the one named."""

    rule: Rule
    outcome: Outcome
    nodes: tuple[str, ...]
    module: str

    @property
    def kind(self) -> Kind | None:
        """The predicted kind of the node's layer; None where it has none of its own, or is refused."""
        return self.outcome.kind if isinstance(self.outcome.kind, Kind) else None

    @property
    def refused(self) -> bool:
        return self.outcome.kind == REFUSED

    @property
    def severity(self) -> Severity:
        return self.outcome.severity

    def to_dict(self) -> dict[str, Any]:
        return {
            "rule": self.rule.id,
            "severity": self.severity,
            "kind": REFUSED if self.refused else self.kind and self.kind.value,
            "nodes": list(self.nodes),
            "module": self.module,
            "about": self.rule.about,
            "why": self.outcome.why,
            "remedy": self.rule.remedy,
            "evidence": self.outcome.evidence,
        }


@dataclass(frozen=True)
class LintReport:
    """What `engine` will do with the graph, node by node in the graph's order."""

    source: str
    target: str
    engine: Engine
    verdicts: tuple[Verdict, ...]

    @property
    def errors(self) -> tuple[Verdict, ...]:
        return self.of("error")

    def of(self, severity: Severity) -> tuple[Verdict, ...]:
        return tuple(v for v in self.verdicts if v.severity == severity)

    @property
    def refused(self) -> bool:
        """Whether the engine would not take the graph at all."""
        return any(v.refused for v in self.verdicts)

    def kinds(self) -> dict[str, Kind]:
        """The predicted kind of each node that has a layer of its own."""
        return {node: v.kind for v in self.verdicts if v.kind is not None for node in v.nodes}

    def summary(self) -> dict[str, int]:
        """How many layers of each kind are predicted, in the order of `Kind`."""
        counts = Counter(v.kind for v in self.verdicts)
        return {kind.value: counts[kind] for kind in Kind if counts[kind]}

    def blocks(self) -> dict[str, tuple[Verdict, ...]]:
        """The verdicts of each block of the model, in order of first appearance."""
        found: dict[str, list[Verdict]] = {}
        for verdict in self.verdicts:
            found.setdefault(block_of(verdict.module), []).append(verdict)
        return {name: tuple(verdicts) for name, verdicts in found.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "source": self.source,
            "target": self.target,
            "engine": str(self.engine),
            "refused": self.refused,
            "summary": self.summary(),
            "counts": {severity: len(self.of(severity)) for severity in SEVERITIES},
            "blocks": {name: _counts(verdicts) for name, verdicts in self.blocks().items()},
            "verdicts": [v.to_dict() for v in self.verdicts],
        }

    def line(self) -> str:
        """The whole in one line."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.summary().items()) or "no product or attention"
        counts = {"error": len(self.errors), "warning": len(self.of("warning"))}
        wrong = [f"{count} {name}{'s' if count > 1 else ''}" for name, count in counts.items() if count]
        refused = "refused; " if self.refused else ""
        return f"{self.engine}: {refused}{kinds}; {', '.join(wrong) or 'nothing to mend'}"

    def __str__(self) -> str:
        return self.text()

    def text(self, notes: bool = False) -> str:
        """The blocks, then each rule that was met with its nodes; `notes`: those too where nothing is to mend."""
        lines = [f"{printable(self.source)} on {self.target}, {self.engine.title}", self.line(), ""]
        lines += _block_lines(self.blocks())
        shown = ("error", "warning", "note") if notes else ("error", "warning")
        by_rule: dict[str, list[Verdict]] = {}
        for verdict in self.verdicts:
            if verdict.severity in shown:
                by_rule.setdefault(verdict.rule.id, []).append(verdict)
        for verdicts in sorted(by_rule.values(), key=lambda group: shown.index(group[0].severity)):
            lines += ["", *_rule_lines(verdicts)]
        return "\n".join(lines)


def _rule_lines(verdicts: list[Verdict]) -> list[str]:
    first = verdicts[0]
    places = [_place(verdict) for verdict in verdicts]
    more = f" and {len(places) - 3} more" if len(places) > 3 else ""
    lines = [
        f"{first.severity}: {first.rule.id}, {len(places)}×: {first.rule.about}",
        f"  at      {', '.join(places[:3])}{more}",
        f"  so      {'refused: ' if first.refused else ''}{first.outcome.why}",
    ]
    if first.rule.remedy:
        lines.append(f"  do      {first.rule.remedy}")
    return [*lines, f"  source  {first.outcome.evidence}"]


def _place(verdict: Verdict) -> str:
    node = printable(verdict.nodes[0])
    return f"{node} (module {printable(verdict.module)})" if verdict.module else node


def _counts(verdicts: tuple[Verdict, ...]) -> dict[str, int]:
    counts = Counter(v.kind.value for v in verdicts if v.kind is not None)
    counts.update(v.rule.id for v in verdicts if v.kind is None and v.severity != "good")
    return dict(counts)


def _block_lines(blocks: dict[str, tuple[Verdict, ...]]) -> list[str]:
    """One line for each run of equal blocks."""
    rows: list[tuple[str, str, str]] = []
    for block, verdicts in blocks.items():
        name = printable(block)
        worst = max((v.severity for v in verdicts), key=SEVERITIES.index)
        text = ", ".join(f"{count} {what}" for what, count in _counts(verdicts).items())
        if rows and rows[-1][1:] == (worst, text):
            rows[-1] = (f"{rows[-1][0].split(' … ')[0]} … {name}", worst, text)
        elif text:
            rows.append((name, worst, text))
    width = max((len(row[0]) for row in rows), default=0)
    return [f"{name:<{width}}  {worst:<7}  {text}" for name, worst, text in rows]
