"""A report as one plain page: tables and bars, what was skipped and how to get it, how to make it again. No script."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #16181d; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid #d7dae0; }
td, pre { overflow-wrap: anywhere; } pre { white-space: pre-wrap; background: #f1f2f4; padding: .8rem; }
.warn { color: #b04a00; font-weight: 600; }
@media (prefers-color-scheme: dark) { body { background: #14161a; color: #e9ebef; } pre { background: #1c1f26; }
  th, td { border-color: #323843; } .warn { color: #ff9a57; } }
"""


def report_page(report: Mapping[str, Any], title: str) -> str:
    """`report`: a compilation's, as `Report.to_dict` gives it. The page asks nothing of the network."""
    blocks = report.get("predicted_blocks") or ()
    ledger = report.get("ledger")
    parts = [
        *(f'<p class="warn">{escape(text)}</p>' for text in report.get("warnings", ())),
        _table(("", ""), _facts(report)),
        _section("Passes", _table(("pass", "+", "−", "~", "seconds", "notes"), _passes(report["journal"]))),
    ]
    if blocks:
        total = sum(b["ms"] for b in blocks)
        rows = [
            (b["name"], _bar(b["ms"], max(x["ms"] for x in blocks)), f"{b['ms']:.4g} ms", b["bound"]) for b in blocks
        ]
        note = f"<p>{total:.4g} ms in all on {escape(report['target'])}: the cost model at batch 1, not measured.</p>"
        parts.append(_section("Where the time goes", note + _table(("block", "", "predicted", "bound by"), rows)))
    if ledger:
        chosen = [
            (e["block"], e["choice"], f"{e['sqnr_db']:.1f} dB", _number(e["saved_ms"]), e["reason"])
            for e in ledger["entries"]
        ]
        head = ("block", "choice", "alone", "ms saved", "why")
        parts.append(_section("Budget", f"<p>{escape(ledger['verdict'])}</p>" + _table(head, chosen)))
    if report.get("attentions"):
        kernels = [(a["node"], a["form"], a["kernel"] or "–", a["why"]) for a in report["attentions"]]
        parts.append(_section("Attention", _table(("node", "form", "kernel", "why"), kernels)))
    for name in ("pruning", "calibration"):
        if report.get(name):
            parts.append(_section(name.capitalize(), _pre(report[name])))
    if report.get("skipped"):
        parts.append(_section("Skipped, and how to get it", _pre(report["skipped"])))
    again = f"vitc.compile(model, {report['target']!r}, pipeline={report['pipeline']!r})"
    parts.append(_section("To make it again", _pre([again])))
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" '
        f'content="{policy}"><title>{escape(title)}</title><style>{_STYLE}</style></head>\n'
        f"<body><h1>{escape(title)}</h1>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _facts(report: Mapping[str, Any]) -> Iterable[Sequence[str]]:
    yield "target", report["target"]
    yield "weights", f"{report['weight_bytes_before'] / 1e6:.1f} MB → {report['weight_bytes_after'] / 1e6:.1f} MB"
    yield "parameters", f"{report['parameters'] / 1e6:.2f} M"
    yield "work", f"{report['flops'] / 1e9:.2f} GFLOP an image"
    for name, ms in report.get("measured_ms", {}).items():
        yield f"measured here, {name}", f"{ms:.1f} ms"
    for name, value in report.get("agreement", {}).items():
        yield name, f"{value:.6f}"
    for name in ("engine", "lint"):
        if report.get(name):
            yield name, report[name]
    for text in report.get("decisions", ()):
        yield "decision", text


def _passes(journal: Iterable[Mapping[str, Any]]) -> Iterable[Sequence[str]]:
    for entry in journal:
        counts = (str(entry[name]) for name in ("created", "erased", "changed"))
        yield entry["pass_text"], *counts, f"{entry['seconds']:.2f}", "; ".join(entry["notes"])


class _Markup(str):
    """Text that is markup already."""

    __slots__ = ()


def _bar(value: float, most: float) -> _Markup:
    width = 200 * value / most if most else 0
    return _Markup(
        f'<svg width="200" height="12" role="img" aria-label="{value:.4g}"><rect width="{width:.1f}" height="12" '
        'fill="#0072b2"/></svg>'
    )


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(c)}</th>" for c in columns) if any(columns) else ""
    body = "".join(
        "<tr>" + "".join(f"<td>{c if isinstance(c, _Markup) else escape(str(c))}</td>" for c in row) + "</tr>\n"
        for row in rows
    )
    return f"<table>{f'<tr>{head}</tr>' if head else ''}\n{body}</table>"


def _section(title: str, content: str) -> str:
    return f"<h2>{escape(title)}</h2>\n{content}"


def _pre(lines: Iterable[str]) -> str:
    return f"<pre>{escape(chr(10).join(lines))}</pre>"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3f}"
