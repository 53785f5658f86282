"""The pages beside the graph, as data: tables, bars, histograms, a roofline. A viewer knows the kinds, not the content.

Kinds: `table` (columns, rows of cells), `text` (lines), `bars` (a value before and after), `waterfall` (deltas that
add up), `histograms`, `roofline`, `scatter`. What a row is about is its `ref`: a module's path or "%node".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitc.cost import Prediction
    from vitc.explorer.collect import Quantized
    from vitc.lowering.lint import LintReport
    from vitc.passes.pruning.plan import PrunePlan
    from vitc.targets import Target

Panel = dict[str, Any]


def table(
    name: str, title: str, columns: Sequence[str], rows: Iterable[tuple[str, Sequence[Any]]], about: str = ""
) -> Panel:
    """`rows`: (ref, cells). Numbers of a column are drawn as bars too."""
    listed = [{"ref": ref, "cells": [_plain(c) for c in cells]} for ref, cells in rows]
    return {"id": name, "kind": "table", "title": title, "about": about, "columns": list(columns), "rows": listed}


def text(name: str, title: str, lines: Iterable[str], about: str = "") -> Panel:
    return {"id": name, "kind": "text", "title": title, "about": about, "lines": list(lines)}


def blocks(prediction: Prediction) -> Panel:
    """Where the time goes, slowest first."""
    rows = sorted(prediction.blocks, key=lambda b: -b.ms)
    return table(
        "blocks",
        "Where the time goes",
        ("block", "predicted ms", "share", "GFLOP", "weights MB", "kernels", "bound by"),
        (
            (
                "" if b.name == "(model)" else b.name,
                (b.name, b.ms, f"{b.ms / prediction.ms:.1%}" if prediction.ms else "–", b.flops / 1e9,
                 b.weight_bytes / 1e6, b.kernels, b.bound),
            )
            for b in rows
        ),
        f"the cost model on {prediction.target}, batch 1, slowest first; {prediction.ms:.4g} ms in all, the arithmetic "
        f"limit is {prediction.floor_ms:.4g} ms; not measured",
    )  # fmt: skip


def roofline(prediction: Prediction, target: Target) -> Panel:
    """Every kernel by operations a byte and operations a second, under the target's limits."""
    roofs = [
        {"title": f"{name} peak", "flops": rate * 1e12}
        for name, rate in (("INT8", target.int8_tops), ("FP16", target.fp16_tflops), ("FP32", target.fp32_tflops))
        if rate
    ]
    points = []
    for op in prediction.ops:
        moved = op.cost.bytes_read + op.cost.bytes_written + op.cost.weight_bytes
        if op.ms > 0 and moved and op.cost.flops:
            points.append(
                {
                    "ref": f"%{op.cost.name}",
                    "label": op.cost.module or op.cost.name,
                    "x": _plain(op.cost.flops / moved),
                    "y": _plain(op.cost.flops / op.ms * 1e3),
                    "ms": _plain(op.ms),
                    "group": op.cost.dtype,
                }
            )
    return {
        "id": "roofline",
        "kind": "roofline",
        "title": "Roofline",
        "about": f"predicted, on {target.title}; one dot for each kernel, its area is its time",
        "roofs": roofs,
        "bandwidth": (target.memory_gbs or 0) * 1e9,
        "points": points,
    }


def attentions(choices: Iterable[Mapping[str, Any]], origins: Mapping[str, str]) -> Panel:
    """The report's section on attention, one row each."""

    def other(options: Sequence[Mapping[str, Any]]) -> str:
        return "; ".join(
            o["name"] + (f": {o['why']}" if o["ms"] is None else f" {1e3 * o['ms']:.1f} µs") for o in options
        )

    return table(
        "attention",
        "Attention",
        ("attention", "form", "kernel", "why", "predicted, not measured"),
        (
            (
                f"%{origins[c['node']]}" if c["node"] in origins else "",
                (c["node"], c["form"], c["kernel"] or "–", c["why"], other(c["options"])),
            )
            for c in choices
        ),
        "the kernel that serves each attention, and what else there would be",
    )


def int8(tensors: Iterable[Quantized]) -> Panel:
    """The histogram of each tensor that becomes INT8."""
    return {
        "id": "int8",
        "kind": "histograms",
        "title": "INT8 tensors",
        "about": "magnitudes on calibration images; the line is the end of the INT8 range, what lies beyond is clipped",
        "items": [
            {
                "ref": f"%{q.node}",
                "title": f"{q.module or q.node} ← {q.source}",
                "range": _plain(q.range),
                "top": _plain(q.top),
                "bins": list(q.bins),
                "clipped": _plain(q.clipped),
                "noise": _plain(q.noise),
            }
            for q in tensors
        ],
    }


def pruning(plan: PrunePlan) -> Panel:
    """Parameters by block, before and after."""
    return {
        "id": "pruning",
        "kind": "bars",
        "title": "Pruning",
        "about": f"parameters by block, ranked by {plan.criterion}",
        "unit": "parameters",
        "rows": [
            {
                "ref": name,
                "label": name,
                "before": cost.params,
                "after": plan.after[name].params if name in plan.after else 0,
            }
            for name, cost in plan.before.items()
        ],
        "notes": [str(cut) for step in plan.steps for cut in step if cut.removed or cut.reason],
    }


def ledger(data: Mapping[str, Any]) -> Panel:
    """What each block in INT8 saves, and why it was taken or left."""
    return {
        "id": "ledger",
        "kind": "waterfall",
        "title": "Budget ledger",
        "about": data["verdict"],
        "unit": "ms saved",
        "rows": [
            {
                "ref": e["block"],
                "label": e["block"],
                "delta": _plain(e["saved_ms"] or 0.0),
                "taken": e["choice"].startswith("INT8"),
                "text": f"{e['choice']}: {e['reason']}; alone {e['sqnr_db']:.1f} dB"
                + ("" if e["score_change"] is None else f", score {e['score_change']:+.4f}"),
            }
            for e in data["entries"]
        ],
    }


def trials(data: Mapping[str, Any]) -> Panel:
    """The scores that the search saw."""
    return table("trials", "Mixes tried", ("mix", "score"), (("", (mix, score)) for mix, score in data["trials"]))


def reasons(data: Mapping[str, Any]) -> dict[str, str]:
    """Module path → why it is in floating point, from a ledger."""
    return {
        e["block"]: f"{e['choice']}: {e['reason']} (alone {e['sqnr_db']:.1f} dB)"
        for e in data["entries"]
        if e["choice"] != "INT8"
    }


def front(title: str, xlabel: str, ylabel: str, points: Iterable[Mapping[str, Any]]) -> Panel:
    """A search's candidates: {x, y, label}. Those that none beats in both are the front."""
    listed = [{"label": str(p["label"]), "x": _plain(p["x"]), "y": _plain(p["y"])} for p in points]
    for p in listed:
        p["front"] = not any(q["x"] <= p["x"] and q["y"] >= p["y"] and q != p for q in listed)
    return {
        "id": "front",
        "kind": "scatter",
        "title": title,
        "about": "",
        "xlabel": xlabel,
        "ylabel": ylabel,
        "points": listed,
    }


def lint(report: LintReport, origins: Mapping[str, str]) -> Panel:
    """What is to mend, worst first; what is as it should be is left out."""
    order = {"error": 0, "warning": 1, "note": 2}
    found = sorted((v for v in report.verdicts if v.severity in order), key=lambda v: order[v.severity])
    return table(
        "lint",
        "Lint",
        ("severity", "rule", "module", "why", "what to do", "node"),
        (
            (
                f"%{origins[v.nodes[0]]}" if v.nodes[0] in origins else v.module,
                (v.severity, v.rule.id, v.module, v.outcome.why, v.rule.remedy, v.nodes[0]),
            )
            for v in found
        ),
        report.line(),
    )


def _plain(value: Any) -> Any:
    """Six digits, and no infinity."""
    if isinstance(value, bool) or not isinstance(value, float):
        return value
    if value != value or abs(value) == float("inf"):
        return None
    return int(value) if value.is_integer() and abs(value) < 2**53 else float(f"{value:.6g}")
