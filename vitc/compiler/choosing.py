"""Which of the models that a plan allows is the answer: as planned, the fastest mix, or floating point."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from vitc.compiler.compiled import CompiledModel
from vitc.compiler.mixes import Mixes
from vitc.compiler.planning import Plan

_ROUNDS = 4


def choose(made: Plan) -> CompiledModel:
    """The compiled model that the plan's request asks for."""
    request = made.request
    if not made.quantized or request.passes is not None:
        return CompiledModel.from_plan(made)
    floating: Callable[[], CompiledModel]
    if request.max_drop is None:
        chosen = CompiledModel.from_plan(made)
        floating = lambda: CompiledModel.from_plan(made.without_int8())  # noqa: E731
    else:
        mixes = Mixes(made)
        chosen, floating = mixes.fastest(), mixes.floating
    if request.measures_int8 and chosen.program.stage == "quantized":
        return _faster(floating(), chosen)
    return chosen


def _faster(floating: CompiledModel, int8: CompiledModel) -> CompiledModel:
    """Times both in turn on this machine, on the smallest batch, and keeps the faster."""
    inputs = int8.smallest_example()
    best = {"FP32": float("inf"), "INT8": float("inf")}
    for _ in range(_ROUNDS):
        for name, candidate in (("FP32", floating), ("INT8", int8)):
            started = time.perf_counter()
            candidate(*inputs)
            best[name] = min(best[name], time.perf_counter() - started)
    ratio = best["FP32"] / best["INT8"]
    if ratio > 1.0:
        chosen, decision = int8, f"INT8 is kept: {ratio:.2f}× FP32 on this machine"
    else:
        chosen, decision = floating, f"INT8 does not pay here: {ratio:.2f}× FP32 on this machine; FP32 is kept"
    measured = {name: 1e3 * seconds for name, seconds in best.items()}
    return chosen.with_report(replace(chosen.report, measured_ms=measured)).decided(decision)
