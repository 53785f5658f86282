"""An explorer file as plain text: for who has no JavaScript, and for who opens the file in a pager."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def summary(data: Mapping[str, Any]) -> str:
    """The head, the passes, the folded modules and the panels. Seconds stay out: this is part of the data."""
    if "files" in data:
        return "\n\n".join(_one(each) for each in data["files"])
    return _one(data)


def _one(data: Mapping[str, Any]) -> str:
    lines = [data["title"], *(f"{name}: {text}" for name, text in data["facts"].items()), "", "passes"]
    for i, step in enumerate(data["steps"]):
        counts = f"+{step['created']} -{step['erased']} ~{step['altered']}" if i else f"{len(step['nodes'])} nodes"
        deviation = f", outputs deviate by {step['deviation']}" if "deviation" in step else ""
        lines.append(f"  {i:2d} {step['title']}  [{counts}]{deviation}")
        if step["what"]:
            lines.append(f"       {step['what']}")
        if "error" in step:
            lines.append(f"       FAILED: {step['error']}")
    series = [(m["path"] or m["label"], m["series"]) for m in data["steps"][-1]["modules"] if "series" in m]
    if series:
        lines += ["", "blocks"]
    for path, found in series:
        lines.append(f"  {path} ×{found['count']}: {found['equal']} equal")
        lines += [f"    {label}: {text}" for label, text in found["differ"]]
    for panel in data["panels"]:
        lines += ["", panel["title"], *(f"  {line}" for line in panel_lines(panel))]
    for engine in data["engines"]:
        lines += ["", engine["title"], f"  {len(engine['layers'])} layers"]
    return "\n".join(line.rstrip() for line in lines)


def panel_lines(panel: Mapping[str, Any]) -> list[str]:
    """A panel's table, or its figures, as lines."""
    if panel["kind"] == "text":
        return list(panel["lines"])
    if panel["kind"] != "table":
        return [str(panel.get("about", ""))] if panel.get("about") else []
    rows = [panel["columns"], *([_cell(c) for c in row["cells"]] for row in panel["rows"])]
    widths = [min(60, max(len(row[i]) for row in rows)) for i in range(len(panel["columns"]))]
    return ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
