"""Whether a compiled model does what the model it was made of does: measured, judged, and the fault named.

An exact pipeline must give what was given, up to the rounding of the target's precision. What costs accuracy on purpose
(INT8, pruning, local attention) is measured, reported, and warned of where it loses a lot.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from vitc.compiler.compiled import CompiledModel
from vitc.compiler.planning import Plan
from vitc.errors import AccuracyError, AccuracyWarning
from vitc.graph.program import Program
from vitc.graph.structure import tensors_of
from vitc.lowering.cpu import available as cpu_engines
from vitc.pipeline.base import Pass
from vitc.pipeline.manager import run_pipeline
from vitc.pipeline.text import parse_pipeline

#: Least cosine to the given model of an exact pipeline, by the precision that it computes in.
EXACT = {"fp32": 0.9999, "fp16": 0.999}
#: Least cosine of INT8 without a warning: on calibration images, and on an example that may be noise.
INT8_ON_IMAGES, INT8_ON_EXAMPLE = 0.98, 0.9
#: Differences below this share of the largest output are rounding, whatever the cosine of noise says.
_ROUNDING = 1e-6
_IMAGES = 4


def cosine(wanted: Sequence[torch.Tensor], got: Sequence[torch.Tensor]) -> float:
    """The least cosine over the outputs; NaN where shapes differ, or one is finite where the other is not.

    Outputs that differ by rounding alone count as equal: the angle between two near-zero tensors says nothing. Integers
    (argmax, topk) may fall either way between near equals: where there is nothing else, the share of equal ones counts.
    """
    pairs = list(zip(wanted, got, strict=True))
    floats = [_cosine(a, b) for a, b in pairs if a.is_floating_point()]
    if floats:
        return float("nan") if any(math.isnan(value) for value in floats) else min(floats)
    return min((float((a == b).double().mean()) for a, b in pairs if a.shape == b.shape and a.numel()), default=1.0)


def _cosine(wanted: torch.Tensor, got: torch.Tensor) -> float:
    if wanted.shape != got.shape:
        return float("nan")
    x, y = wanted.detach().flatten().double(), got.detach().flatten().double()
    finite = torch.isfinite(x)
    if not torch.equal(finite, torch.isfinite(y)) or not torch.equal(x[~finite].nan_to_num(), y[~finite].nan_to_num()):
        return float("nan")
    x, y = x[finite], y[finite]
    if x.numel() == 0 or float((x - y).abs().max()) <= _ROUNDING * float(x.abs().max()):
        return 1.0
    norm = float(x.norm() * y.norm())
    return float(x @ y) / norm if norm else 0.0


def judged(compiled: CompiledModel, made: Plan) -> CompiledModel:
    """The compiled model with its agreement in the report.

    Raises AccuracyError where an exact pipeline is not exact or an output is NaN that was a number, naming the first
    pass, or the engine, that differs. Warns of INT8 that loses more than it should.
    """
    inputs = compiled.smallest_example()
    wanted = made.original.run(*inputs)
    found = cosine(wanted, _outputs(compiled, inputs))
    passes = _passes(compiled.program, made)
    limit = EXACT["fp16" if any(p.name == "to-fp16" for p in passes) else "fp32"]
    exact = all(item.exact for item in passes)
    if not found >= (limit if exact else -1.0):
        compiled = _mended(compiled, made, inputs, wanted, found, limit if exact else None, passes)
        found = cosine(wanted, _outputs(compiled, inputs))
    agreement = {"cosine to the original, example input": found}
    complaints: list[str] = []
    if compiled.program.stage == "quantized":
        agreement |= _int8(compiled, made, inputs, complaints)
    for text in complaints:
        warnings.warn(text, AccuracyWarning, stacklevel=4)
    return compiled.with_report(replace(compiled.report, agreement=agreement, warnings=tuple(complaints)))


def _outputs(compiled: CompiledModel, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return list(tensors_of(compiled(*inputs)))


def _passes(program: Program, made: Plan) -> Sequence[Pass]:
    """The passes that made a program: the user's own objects where they were given as such."""
    given = made.request.passes
    return given if given is not None else parse_pipeline(program.pipeline)


def _int8(
    compiled: CompiledModel, made: Plan, inputs: Sequence[torch.Tensor], complaints: list[str]
) -> dict[str, float]:
    """What INT8 alone costs: against what was quantized, which is the pruned model where one was."""
    agreement = {}
    example = cosine(made.start.run(*inputs), _outputs(compiled, inputs))
    worst = [(example, INT8_ON_EXAMPLE, "the example input")]
    stream = made.program.calibration
    if stream is not None:
        batch = made.original.batch
        images = next(iter(stream))
        if batch is not None:
            images = tuple(t[: min(max(batch.min, _IMAGES), batch.max)] for t in images)
        if batch is None or images[0].shape[0] >= batch.min:
            on_images = cosine(made.start.run(*images), _outputs(compiled, images))
            agreement["cosine of INT8 to floating point, calibration images"] = on_images
            worst.insert(0, (on_images, INT8_ON_IMAGES, "calibration images"))
    for value, floor, where in worst:
        if not value >= floor:
            complaints.append(
                f"INT8 has a cosine of only {value:.4f} to floating point on {where} (expected: {floor:g} or more); "
                "look at vitc.sensitivity, pass max_drop=0.01 to keep what INT8 harms in floating point, and check "
                "that the calibration images are preprocessed as for inference"
            )
            break
    return agreement


@dataclass
class _AfterEach:
    """An instrument: the cosine to the given model's outputs after each pass."""

    inputs: Sequence[torch.Tensor]
    wanted: Sequence[torch.Tensor]
    limit: float
    first: tuple[str, float] | None = None

    def before(self, item: Pass, program: Program) -> None:
        """Nothing: what enters a pass was compared behind the one before."""

    def after(self, item: Pass, before: Program, after: Program) -> None:  # noqa: ARG002  an instrument's signature
        if self.first is None:
            value = cosine(self.wanted, after.run(*self.inputs))
            if not value >= self.limit:
                self.first = (item.name, value)


def _mended(
    compiled: CompiledModel,
    made: Plan,
    inputs: Sequence[torch.Tensor],
    wanted: Sequence[torch.Tensor],
    found: float,
    limit: float | None,
    passes: Sequence[Pass],
) -> CompiledModel:
    """The same graph on an engine that computes it right, and says so. Raises AccuracyError where the graph is wrong
    already, or no engine of this machine is right. `limit` None: only NaN counts."""
    bound = -1.0 if limit is None else limit
    need = "finite outputs" if limit is None else f"a cosine of {limit:g}"
    lost = (
        f"the compiled model is not the one that was given: cosine {found:.4f} on the example input, where it needs "
        f"{need}"
    )
    if not cosine(wanted, compiled.program.run(*inputs)) >= bound:
        watch = _AfterEach(inputs, wanted, bound)
        run_pipeline(made.original, passes, (watch,))
        name, value = watch.first or ("(none of them alone)", found)
        raise AccuracyError(
            f"{lost}. The first pass that changes the result is {name!r} (cosine {value:.4f} behind it). If it is "
            "meant to, set exact = False in its class; else mend it or leave it out. vitc.Numerics() shows each pass"
        )
    values = {compiled.engine.name: found}
    for name in cpu_engines():
        if name in values or cpu_engines()[name] is not None:
            continue
        other = compiled.on_engine(name)
        values[name] = cosine(wanted, _outputs(other, inputs))
        if values[name] >= bound:
            return other.decided(
                f"{compiled.engine.name} computes this graph wrong (cosine {found:.4f} to the original), so {name} "
                f"serves (cosine {values[name]:.6f}); load its bundle with engine={name!r}"
            )
    shown = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
    raise AccuracyError(
        f"{lost}. The graph is right and no engine here computes it so ({shown}). Install another CPU engine "
        "(pip install onnxruntime openvino), or replace the operator that they differ in"
    )
