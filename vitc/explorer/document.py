"""The data of an explorer file: steps laid out, in the form of schema.json. The same input gives the same data.

What differs from run to run (seconds, measured times) is a part of its own: `run_part`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from vitc.explorer.changes import Difference, Rewrite, difference, identities, short
from vitc.explorer.layout import layered
from vitc.explorer.metrics import METRICS
from vitc.explorer.modules import Module, Series, module_tree, nodes_under
from vitc.explorer.records import EngineView, Node, Step

SCHEMA = "vitc-explorer/1"
_NO_CHANGE = Difference({}, (), (), {}, ())


@dataclass(frozen=True)
class Story:
    """All that one file tells. `facts`: what the head of the page says, by title. `panels`: see panels.py.
    `reasons`: module path → why its blocks are as they are. `measured`: by title, what was timed."""

    title: str
    steps: Sequence[Step]
    producer: str = "vitc"
    target: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    panels: Sequence[Mapping[str, Any]] = ()
    engines: Sequence[EngineView] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)
    measured: Mapping[str, float] = field(default_factory=dict)


def document(story: Story) -> dict[str, Any]:
    """The data part."""
    numbers = identities(story.steps)
    pool = _Pool()
    steps = []
    for i, step in enumerate(story.steps):
        change = difference(story.steps[i - 1], step) if i else _NO_CHANGE
        before = story.steps[i - 1] if i else None
        steps.append(_step(step, before, change, numbers[i], numbers[i - 1] if i else {}, pool, story.reasons))
    return {
        "schema": SCHEMA,
        "title": story.title,
        "producer": story.producer,
        "target": story.target,
        "facts": dict(story.facts),
        "metrics": [metric.to_dict() for metric in METRICS if _used(metric.id, story.steps)],
        "nodes": pool.rows,
        "steps": steps,
        "panels": list(story.panels),
        "engines": [_engine(engine) for engine in story.engines],
    }


def run_part(story: Story) -> dict[str, Any]:
    """What this run took: seconds by step, and what was measured."""
    return {"seconds": [step.seconds for step in story.steps], "measured": dict(story.measured)}


def to_json(data: Mapping[str, Any]) -> str:
    """The one spelling that is hashed and packed."""
    return json.dumps(data, ensure_ascii=True, separators=(",", ":"), sort_keys=True, allow_nan=False)


class _Pool:
    """Every different node once: most of a graph goes through most passes unchanged."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self._known: dict[tuple[int, Node], int] = {}

    def add(self, identity: int, node: Node) -> int:
        key = (identity, node)
        if key not in self._known:
            self._known[key] = len(self.rows)
            row = {"id": identity, "name": node.name, "op": node.op, "path": list(node.path), "type": node.type}
            extra = {
                "inputs": list(node.inputs),
                "weights": [[w.name, w.type, w.digest] for w in node.weights],
                "options": node.options,
                "made_by": node.made_by,
                "origin": node.origin if node.origin != node.name else "",
                "minor": int(node.minor),
            }
            self.rows.append(row | {name: value for name, value in extra.items() if value})
        return self._known[key]


def _engine(engine: EngineView) -> dict[str, Any]:
    return {"title": engine.title, "layers": [asdict(x) | {"nodes": list(x.nodes)} for x in engine.layers]}


def _used(metric: str, steps: Sequence[Step]) -> bool:
    return metric == "change" or any(step.values.get(metric) for step in steps)


def _step(
    step: Step,
    before: Step | None,
    change: Difference,
    numbers: Mapping[str, int],
    old_numbers: Mapping[str, int],
    pool: _Pool,
    reasons: Mapping[str, str],
) -> dict[str, Any]:
    """One graph that holds both sides: what the pass took away stands where it stood."""
    old = {node.name: node for node in before.nodes} if before else {}
    rows = _merged(step.nodes, list(old.values()), change)
    index = {(sign, name): i for i, (sign, name) in enumerate(rows)}
    new = {node.name: node for node in step.nodes}
    nodes = [new[name] if sign == "+" else old[name] for sign, name in rows]
    created = set(change.created)
    state = "".join(
        "-" if sign == "-" else "+" if name in created else "~" if name in change.altered else "="
        for sign, name in rows
    )
    edges = _edges(rows, index, old, new, change)
    flow = [(a, b) for a, b, _ in edges if not nodes[a].minor]
    precision = step.values.get("precision", {})
    tree = module_tree(nodes, lambda i: str(precision.get(nodes[i].name, "")) if rows[i][0] == "+" else "")
    layers = layered(tree, flow)
    values = {
        metric: {str(index["+", name]): _short(value) for name, value in found.items() if ("+", name) in index}
        for metric, found in step.values.items()
        if found
    }
    data: dict[str, Any] = {
        "title": step.title,
        "stage": step.stage,
        "created": len(change.created),
        "erased": len(change.erased),
        "altered": len(change.altered),
        "what": summary_of(change.rewrites),
        "notes": list(step.notes),
        "nodes": [pool.add(numbers[n] if s == "+" else old_numbers[n], nodes[i]) for i, (s, n) in enumerate(rows)],
        "state": state,
        "was": {str(index["+", now]): pool.add(numbers[now], old[was]) for was, now in change.pairs.items()
                if now in change.altered},
        "altered_in": {str(index["+", now]): list(kinds) for now, kinds in change.altered.items()},
        "edges": [value for edge in edges for value in edge],
        "modules": [_module(m, n, tree, layers[n], reasons) for n, m in enumerate(tree)],
        "values": values,
        "rewrites": _folded(change.rewrites, index),
    }  # fmt: skip
    if step.deviation is not None:
        data["deviation"] = _short(step.deviation)
    if step.error:
        data["error"] = step.error
    return data


def _merged(now: Sequence[Node], was: Sequence[Node], change: Difference) -> list[tuple[str, str]]:
    """The nodes after a pass, with those it erased behind what came before them."""
    gone = set(change.erased)
    behind: dict[str, list[str]] = {}
    anchor = ""
    for node in was:
        if node.name in gone:
            behind.setdefault(anchor, []).append(node.name)
        else:
            anchor = change.pairs[node.name]
    rows = [("-", name) for name in behind.get("", ())]
    for node in now:
        rows.append(("+", node.name))
        rows += [("-", name) for name in behind.get(node.name, ())]
    return rows


def _edges(
    rows: Sequence[tuple[str, str]],
    index: Mapping[tuple[str, str], int],
    old: Mapping[str, Node],
    new: Mapping[str, Node],
    change: Difference,
) -> list[tuple[int, int, int]]:
    """(from, to, side): 0 in both graphs, 1 after only, −1 before only."""
    back = {now: was for was, now in change.pairs.items()}
    both: dict[tuple[int, int], int] = {}

    def place(name: str) -> int:
        return index["-", name] if name not in change.pairs else index["+", change.pairs[name]]

    for _, name in rows:
        if name in new:
            for source in new[name].inputs:
                both[index["+", source], index["+", name]] = 1
    if old:
        for name, node in old.items():
            for source in node.inputs:
                edge = place(source), place(name)
                both[edge] = 0 if both.get(edge, -1) >= 0 else -1
    elif not back:
        both = dict.fromkeys(both, 0)
    return [(a, b, side) for (a, b), side in sorted(both.items())]


def _module(
    module: Module, number: int, tree: Sequence[Module], layers: list[list[Any]], reasons: Mapping[str, str]
) -> dict[str, Any]:
    data: dict[str, Any] = {
        "label": module.label,
        "path": ".".join(module.path),
        "parent": module.parent,
        "layers": layers,
        "count": len(nodes_under(tree, number)),
    }
    if module.series is not None:
        data["series"] = _series(module.series, module.path, reasons)
    if reason := reasons.get(".".join(module.path)):
        data["reason"] = reason
    return data


def _series(series: Series, path: tuple[str, ...], reasons: Mapping[str, str]) -> dict[str, Any]:
    differ = []
    for label, text in series.differ.items():
        reason = reasons.get(".".join((*path, label)))
        differ.append([label, f"{text}. {reason}" if reason else text])
    return {"count": series.count, "equal": series.equal, "differ": differ}


def summary_of(rewrites: Sequence[Rewrite]) -> str:
    """The line of a timeline: the rewrites, equal ones together, most frequent first."""
    counts = Counter(r.text for r in rewrites)
    shown = [f"{text} ×{n}" if n > 1 else text for text, n in counts.most_common(3)]
    return "; ".join(shown) + (f"; {len(counts) - 3} more kinds" if len(counts) > 3 else "")


def _folded(rewrites: Sequence[Rewrite], index: Mapping[tuple[str, str], int]) -> list[dict[str, Any]]:
    """Equal rewrites of different places as one."""
    groups: dict[str, list[Rewrite]] = {}
    for rewrite in rewrites:
        groups.setdefault(rewrite.text, []).append(rewrite)
    return [
        {
            "text": text,
            "places": [
                {
                    "path": ".".join(r.path),
                    "nodes": [*(index["-", n] for n in r.erased), *(index["+", n] for n in (*r.created, *r.altered))],
                }
                for r in group
            ],
        }
        for text, group in groups.items()
    ]


def _short(value: float | str) -> float | str:
    """Six digits say all; NaN and infinities, which JSON has not, as words."""
    if isinstance(value, str):
        return value
    value = float(value)
    if value != value or value in (float("inf"), float("-inf")):
        return str(value)
    return int(value) if value.is_integer() and abs(value) < 2**53 else float(f"{value:.6g}")


__all__ = ["SCHEMA", "Story", "document", "run_part", "short", "summary_of", "to_json"]
