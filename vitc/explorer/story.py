"""A compilation as a story: its steps, and the panels that apply to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vitc.explorer import collect, panels
from vitc.explorer.document import Story
from vitc.explorer.records import EngineView, Step
from vitc.version import __version__

if TYPE_CHECKING:
    from vitc.graph.program import Program
    from vitc.lowering.lint import LintReport
    from vitc.lowering.tensorrt.layers import LayerTable


def of_passes(
    programs: Sequence[Program],
    *,
    title: str,
    report: Mapping[str, Any] | None = None,
    lint: LintReport | None = None,
    origins: Mapping[str, str] | None = None,
    engines: Mapping[str, tuple[LayerTable, LintReport]] | None = None,
    deviations: Sequence[float] = (),
    error: str = "",
) -> Story:
    """What the programs, the first as captured and one more for each pass, have become. `report`: the compilation's,
    as data; `origins`: ONNX node → node of the last program; `engines`: title → its layers and the lint that predicted
    them; `error`: why the passes ended early."""
    report, origins = report or {}, origins or {}
    last = programs[-1]
    steps = collect.steps_of(programs, deviations)
    prediction = collect.predicted(last)
    shown = [panels.blocks(prediction), panels.roofline(prediction, _with_rates(last))]
    values = dict(steps[-1].values)
    if last.stage == "quantized":
        tensors = collect.quantized_tensors(last)
        shown.append(panels.int8(tensors))
        values["noise"] = {q.node: q.noise for q in tensors}
        values["clipped"] = {q.node: q.clipped for q in tensors}
    if report.get("attentions"):
        shown.append(panels.attentions(report["attentions"], origins))
    if last.pruning is not None:
        shown.append(panels.pruning(last.pruning))
        values["pruned"] = collect.pruned_shares(last)
    if ledger := report.get("ledger"):
        shown += [panels.ledger(ledger), panels.trials(ledger)]
    if lint is not None:
        shown.append(panels.lint(lint, origins))
        values["lint"] = collect.lint_values(lint, origins)
    views: list[EngineView] = []
    for name, (layers, predicted) in (engines or {}).items():
        views.append(collect.engine_view(name, layers, predicted, origins))
        values["built"] = collect.built_values(views[-1], predicted, origins)
    steps[-1] = replace(steps[-1], values=values, error=error)
    return Story(
        title=title,
        producer=f"vitc {__version__}",
        target=last.target.name,
        facts=_facts(last, steps, report),
        steps=steps,
        panels=shown,
        engines=views,
        reasons=panels.reasons(ledger) if ledger else {},
        measured=report.get("measured_ms", {}),
    )


def _with_rates(program: Program) -> Any:
    from vitc.lowering.cpu.rates import measured_here

    return measured_here(program.target)


def _facts(last: Program, steps: Sequence[Step], report: Mapping[str, Any]) -> dict[str, str]:
    ms = sum(float(v) for v in steps[-1].values["ms"].values())
    flops = sum(float(v) for v in steps[-1].values["flops"].values())
    facts = {
        "target": last.target.title,
        "pipeline": ",".join(entry.pass_text for entry in last.journal),
        "predicted": f"{ms:.4g} ms at batch 1 (cost model, not measured)",
        "work": f"{flops / 1e9:.4g} GFLOP an image",
        "weights": f"{last.weight_bytes() / 1e6:.4g} MB, {last.parameter_count() / 1e6:.4g} M parameters",
    }
    for name in ("engine", "lint"):
        if report.get(name):
            facts[name] = str(report[name])
    for i, line in enumerate(report.get("decisions") or ()):
        facts[f"decision {i + 1}"] = line
    for i, line in enumerate(report.get("skipped") or ()):
        facts[f"skipped {i + 1}"] = line
    return facts
