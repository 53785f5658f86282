"""A compilation without an engine: passes, ONNX, report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from vitc.calibration.samples import Samples
from vitc.calibration.source import calibration_stream
from vitc.calibration.stream import CalibrationStream
from vitc.compiler.attention_choice import attention_choices
from vitc.compiler.exploring import Told, title
from vitc.compiler.report import Report
from vitc.compiler.request import Request
from vitc.compiler.task import with_task
from vitc.cost import predict
from vitc.cost.count import flops, op_costs
from vitc.errors import InputError
from vitc.explorer import write
from vitc.frontend.capture import capture
from vitc.graph.attention_call import AttentionCall, is_attention
from vitc.graph.program import BatchRange, Program
from vitc.lowering.cpu import native_refusal
from vitc.lowering.cpu.rates import measured_here
from vitc.lowering.lint import LintReport, lint
from vitc.lowering.onnx.model import OnnxModel, lower
from vitc.lowering.substitution import Match, match
from vitc.lowering.substitution import replace as substitute
from vitc.pipeline.base import Pass
from vitc.pipeline.default import CANONICAL, canonical_passes, precision_passes, structure_passes
from vitc.pipeline.manager import run_pipeline
from vitc.pipeline.text import parse_pipeline
from vitc.pruning import prune_pass, with_samples

if TYPE_CHECKING:
    from vitc.lowering.tensorrt.engine import Engine as TensorRtEngine
    from vitc.lowering.tensorrt.layers import LayerTable


@dataclass(frozen=True)
class Plan:
    """A compilation without an engine.

    original: what was captured.
    start: where the passes of tiling and precision began: what was captured, or what pruning and training made of it.
    program: after all passes.
    onnx: the model for the engine.
    report: what happened.
    request: what was asked for.
    """

    original: Program
    start: Program
    program: Program
    onnx: OnnxModel
    report: Report
    request: Request

    @property
    def quantized(self) -> bool:
        """Whether anything is in INT8."""
        return self.program.stage == "quantized"

    def with_passes(self, passes: Sequence[Pass], known: Program) -> Plan:
        """This plan with other passes, which are the whole pipeline. `known`: a program that has been through the first
        of them, with what calibration found."""
        after = run_pipeline(known, passes[len(known.journal) :], self.request.watchers)
        return _lowered(self.request, self.original, self.start, after)

    def without_int8(self, known: Program | None = None) -> Plan:
        """This plan in floating point. `known`: as for `with_passes`; None begins where this plan did."""
        after = _tiled_and_typed(self.request, known or self.start, None)
        return _lowered(self.request, self.original, self.start, after)

    def explore(self, path: str | Path, *, prove: bool = False) -> Path:
        """Writes one HTML file that shows what each pass did. `prove`: also builds with TensorRT-RTX and shows the
        engine's layers beside the modules they came from; errors as for `prove`."""
        told = self.told(self.program, self.onnx, self.report)
        return write(told.story(title(path), self.proof() if prove else None), path)

    def proof(self) -> dict[str, tuple[LayerTable, LintReport]]:
        """What `prove` builds, for the explorer: its title, its layers, and the lint that predicted them."""
        built = self.prove()
        name = f"{built.distribution} {built.version}, {built.capability}"
        return {name: (built.layers, self.lint("tensorrt-rtx 1.7"))}

    def told(self, program: Program, onnx: OnnxModel, report: Report) -> Told:
        """What the explorer tells of a program: this plan's, or one that a search made of it."""
        given = self.request.passes  # a user's own objects, whose options may not be text
        passes = parse_pipeline(program.pipeline) if given is None else given
        known = program.evolve(calibration=self.program.calibration, samples=self.program.samples)
        return Told(self.original, self.start, known, onnx, report, passes)

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


def make_plan(model: torch.nn.Module | torch.export.ExportedProgram, request: Request) -> Plan:
    """From a model to the ONNX file: capture, pruning and training if asked for, the passes, lowering."""
    device = measured_here(request.target) if request.prunes else request.target  # cuts are weighed by its rates
    original = capture(model, device, request.example_inputs, request.batch)
    if request.preprocessing is not None:
        original = original.evolve(preprocessing=request.preprocessing)
    original = with_task(original, request.task)
    _check_weights(original)
    stream = None
    if request.calibration is not None:
        stream = calibration_stream(request.calibration, original, request.resume)
    start = _distilled(_pruned(original, request, stream), original, request)
    program = start
    if stream is not None:
        program = start.evolve(calibration=stream, samples=start.samples or Samples(stream))
    if request.passes is not None:
        after = run_pipeline(program, request.passes, request.watchers)
    else:
        after = _tiled_and_typed(request, program, request.int8)
    if stream is not None and not stream.was_read:
        raise InputError(
            f"calibration= was given and no pass read it; the passes were {after.pipeline}. Leave it away, or ask "
            "for INT8 or for a pruning criterion that looks at data"
        )
    return _lowered(request, original, start, after)


def _check_weights(program: Program) -> None:
    """Raises InputError, naming it, for a weight that is NaN or infinite: whatever it touches has no right answer."""
    for name, weight in program.module.named_parameters():
        bad = int((~torch.isfinite(weight)).sum())
        if bad:
            raise InputError(
                f"weight {name!r} holds {bad} NaN or infinite values of {weight.numel()}; load another checkpoint, or "
                "mend the training"
            )


def _pruned(original: Program, request: Request, stream: CalibrationStream | None) -> Program:
    """The program at stage 'pruned', or as it is where nothing is to go."""
    if request.prune is None:
        return original
    step, given = prune_pass(request.prune)
    program = with_samples(original, given.get("data", stream), given.get("loss"))
    return run_pipeline(program, (*canonical_passes(), step), request.watchers)


def _distilled(student: Program, teacher: Program, request: Request) -> Program:
    """The pruned program, trained to do what the captured one does, or as it is if that is not wanted."""
    if request.distill is None:
        return student
    from vitc.distillation.recover import recover

    return recover(student, teacher, request.distill, request.progress)


def _tiled_and_typed(request: Request, program: Program, int8: str | None) -> Program:
    """captured or pruned → what the target computes with. `int8`: the text of quantize-int8, None for no INT8."""
    structure = structure_passes(attention=request.lossy_attention)
    tiled = run_pipeline(program, structure[len(CANONICAL) if program.journal else 0 :], request.watchers)
    precision = precision_passes(tiled.target, int8, _int8_attention(tiled))
    return run_pipeline(tiled, precision, request.watchers)


def _lowered(request: Request, original: Program, start: Program, after: Program) -> Plan:
    model = lower(after)
    matches = match(model.proto)
    substitute(model.proto, matches)
    report = _report(request, original, after, matches)
    report = replace(report, lint=lint(model.proto, after.target).line())
    return Plan(original, start, after, model, report, request)


def _int8_attention(tiled: Program) -> bool:
    """Whether the target's engine takes attention in INT8. On a CPU vitc's own kernels do, where every attention has
    their
    form: packed, no bias, heads in sixteens."""
    if tiled.target.kind != "cpu":
        return True
    calls = [AttentionCall.of(n) for n in tiled.graph.nodes if is_attention(n)]
    fits = all(call.packed and call.bias is None and call.head_dim % 16 == 0 for call in calls)
    return fits and native_refusal() is None


def _report(request: Request, before: Program, after: Program, matches: Sequence[Match]) -> Report:
    target = after.target
    costs = op_costs(after)
    prediction = predict(costs, measured_here(target))
    skipped = []
    if request.calibration is None:
        skipped.append("INT8: pass calibration=images (a tensor or batches of preprocessed inputs)")
    if after.pruning is None:
        skipped.append("pruning: pass prune=0.35, or {'flops': 0.4}; it costs accuracy, which training recovers")
    return Report(
        target=target.name,
        pipeline=after.pipeline,
        journal=after.journal,
        parameters=after.parameter_count(),
        weight_bytes_before=before.weight_bytes(),
        weight_bytes_after=after.weight_bytes(),
        flops=flops(after),
        attentions=attention_choices(matches, costs, target),
        predicted_ms=prediction.ms,
        predicted_blocks=prediction.blocks,
        pruning=() if after.pruning is None else tuple(after.pruning.text().splitlines()),
        calibration=after.findings.lines(),
        skipped=tuple(skipped),
    )
