"""A compilation without an engine: passes, ONNX, report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitc.calibration.samples import Samples
from vitc.calibration.source import calibration_stream
from vitc.compiler.attention_choice import attention_choices
from vitc.compiler.choices import Choices
from vitc.compiler.report import Report
from vitc.cost import predict
from vitc.cost.count import flops, op_costs
from vitc.errors import CalibrationError, InputError
from vitc.graph.attention_call import AttentionCall, is_attention
from vitc.graph.program import BatchRange, Program
from vitc.lowering.cpu import native_refusal
from vitc.lowering.cpu.rates import measured_here
from vitc.lowering.lint import LintReport, lint
from vitc.lowering.onnx.model import OnnxModel, lower
from vitc.lowering.substitution import Match, match
from vitc.lowering.substitution import replace as substitute
from vitc.pipeline.default import CANONICAL, precision_passes, structure_passes
from vitc.pipeline.instruments import Instrument
from vitc.pipeline.manager import run_pipeline

if TYPE_CHECKING:
    from vitc.lowering.tensorrt.engine import Engine as TensorRtEngine


@dataclass(frozen=True)
class Plan:
    """A compilation without an engine: the program after all passes, its ONNX model, and the report."""

    original: Program
    program: Program
    onnx: OnnxModel
    report: Report

    def lint(self, engine: str | None = None) -> LintReport:
        """What an engine will do with each block of the ONNX model; arguments and errors as for `vitc.lint`."""
        return lint(self.onnx.proto, self.program.target, engine=engine)

    def prove(self, capability: str | None = None) -> TensorRtEngine:
        """Builds the network with TensorRT-RTX on this machine, without a GPU, and returns the engine with its layer
        table. `capability` as 'SM86'; default: the target's own, or the nearest one TensorRT-RTX builds for.

        Raises BuildError with TensorRT's reason; MissingDependencyError if tensorrt-rtx is not installed.
        """
        from vitc.lowering.tensorrt.engine import Profile, build_engine

        batch = self.program.batch or BatchRange(1, 1)
        profile = Profile(batch.min, min(max(batch.min, 4), batch.max), min(batch.max, 8))
        wanted = capability or self.program.target.proof_capability
        if wanted is None:
            raise InputError(f"target {self.program.target.name!r} is no TensorRT target; choose one of its kind")
        return build_engine(self.onnx.proto.SerializeToString(), capability=wanted, profile=profile)


def make_plan(
    original: Program,
    program: Program,
    calibration: Any,
    choices: Choices,
    instruments: Sequence[Instrument] = (),
    resume: str | Path | None = None,
) -> Plan:
    """`original` is what was captured; `program` is where the passes begin: the same, or pruned already."""
    if resume is not None and calibration is None:
        raise InputError(
            "resume= keeps what calibration and the search of a mix find, and there is no calibration=images"
        )
    if choices.quantize not in ("auto", None) and calibration is None and choices.passes is None:
        raise CalibrationError(
            f"quantize={choices.quantize!r} needs calibration=images, a tensor or an iterable of batches"
        )
    if calibration is not None:
        stream = calibration_stream(calibration, program, resume)
        program = program.evolve(calibration=stream, samples=program.samples or Samples(stream))
    if choices.passes is not None:
        after = run_pipeline(program, choices.passes[len(program.journal) :], instruments)
    else:
        structure = structure_passes(attention=choices.lossy_attention)
        tiled = run_pipeline(program, structure[len(CANONICAL) if program.journal else 0 :], instruments)
        int8 = choices.int8 if calibration is not None else None
        after = run_pipeline(tiled, precision_passes(tiled.target, int8, _int8_attention(tiled)), instruments)
    model = lower(after)
    matches = match(model.proto)
    substitute(model.proto, matches)
    report = _report(original, after, matches)
    return Plan(original, after, model, replace(report, lint=lint(model.proto, after.target).line()))


def _int8_attention(tiled: Program) -> bool:
    """Whether the target's engine takes attention in INT8. On a CPU vitc's own kernels do, where every attention has
    their
    form: packed, no bias, heads in sixteens."""
    if tiled.target.kind != "cpu":
        return True
    calls = [AttentionCall.of(n) for n in tiled.graph.nodes if is_attention(n)]
    fits = all(call.packed and call.bias is None and call.head_dim % 16 == 0 for call in calls)
    return fits and native_refusal() is None


def _report(before: Program, after: Program, matches: Sequence[Match]) -> Report:
    target = after.target
    costs = op_costs(after)
    prediction = predict(costs, measured_here(target))
    skipped = (
        []
        if after.stage == "quantized"
        else ["INT8: pass calibration=images (a tensor or batches of preprocessed inputs)"]
    )
    if after.pruning is None:
        skipped.append("pruning: pass prune=0.35, or {'flops': 0.4}; it costs accuracy, which training recovers")
    return Report(
        target=target.name,
        pipeline=",".join(entry.pass_text for entry in after.journal),
        journal=after.journal,
        parameters=after.parameter_count(),
        weight_bytes_before=before.weight_bytes(),
        weight_bytes_after=after.weight_bytes(),
        flops=flops(after),
        attentions=attention_choices(matches, costs, target),
        predicted_ms=prediction.ms,
        predicted_blocks=prediction.blocks,
        pruning=() if after.pruning is None else tuple(after.pruning.text().splitlines()),
        skipped=tuple(skipped),
    )
