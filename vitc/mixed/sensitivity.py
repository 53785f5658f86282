"""vitc.sensitivity: what INT8 costs, block by block or layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from vitc.calibration.source import calibration_stream
from vitc.errors import InputError
from vitc.frontend.capture import capture
from vitc.mixed.measure import Measure, Split, by_block, by_layer, groups, with_extras
from vitc.mixed.records import Sensitivity
from vitc.mixed.score import score_of
from vitc.pipeline.base import Pass
from vitc.pipeline.default import default_pipeline
from vitc.pipeline.text import parse_pipeline
from vitc.targets import Target
from vitc.targets import load as load_target


def sensitivity(
    model: torch.nn.Module | torch.export.ExportedProgram,
    target: str | Path | Target = "cpu",
    *,
    calibration: Any,
    example_inputs: Any = None,
    by: Literal["block", "layer"] = "block",
    images: int = 64,
    evaluate: Callable[[Callable[..., Any]], float] | None = None,
    pipeline: str | Sequence[Pass] | None = None,
    resume: str | Path | None = None,
) -> Sensitivity:
    """What INT8 does in one block (or layer) at a time, everything else in floating point.

    The model runs once in floating point; each block is then run from its first node on, on the first `images`
    calibration images. `evaluate`, a function from a callable model to a score, is called once a block if given, and
    then runs whole models. `resume` is for calibration only. Arguments besides are those of `vitc.compile`.

    Raises CalibrationError, InputError, PipelineError, and what capturing and the passes raise.
    """
    if by not in ("block", "layer"):
        raise InputError(f"by must be 'block' or 'layer', got {by!r}")
    device = load_target(target)
    program = capture(model, device, example_inputs)
    program = program.evolve(calibration=calibration_stream(calibration, program, resume))
    passes = default_pipeline(device, int8=True) if pipeline is None else pipeline
    split = Split.of(program, parse_pipeline(passes) if isinstance(passes, str) else passes)
    key = by_block if by == "block" else by_layer
    found = groups(split, key)
    measure = Measure(split, found, images)
    saved = split.saved_ms(key)
    rows = []
    for name, sites in found.items():
        score = None if evaluate is None else score_of(evaluate, measure.quantized(sites).module)
        rows.append(with_extras(measure.row(name, sites), saved, score))
    everything = split.quantize.sites(split.program)
    score = None if evaluate is None else score_of(evaluate, measure.quantized(everything).module)
    total = None if saved is None else {"all together": sum(saved.get(name, 0.0) for name in found)}
    together = with_extras(measure.together("all together"), total, score)
    floating = None if evaluate is None else score_of(evaluate, split.program.module)
    return Sensitivity(device.name, measure.images, tuple(rows), together, floating)
