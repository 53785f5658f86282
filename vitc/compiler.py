"""The road from a model to a compiled model, read top to bottom."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from vitc.analysis import flops, op_costs
from vitc.attention_choice import attention_choices
from vitc.calibration import calibration_stream, replayable
from vitc.capture import capture
from vitc.compiled import CompiledModel
from vitc.cost import predict
from vitc.cost.machine import measured_here
from vitc.errors import CalibrationError, InputError
from vitc.lowering.cpu import native_refusal
from vitc.lowering.lint import LintReport, lint
from vitc.lowering.onnx.model import OnnxModel, lower
from vitc.lowering.substitution import Match, match
from vitc.lowering.substitution import replace as substitute
from vitc.passes.pruning.prune import Prune
from vitc.passes.pruning.samples import Samples
from vitc.pipeline.base import Pass
from vitc.pipeline.instruments import Dump, Instrument, Progress
from vitc.pipeline.manager import run_pipeline
from vitc.pipeline.text import parse_pipeline, print_pass, print_pipeline
from vitc.program import BatchRange, Program
from vitc.pruning import Budget, prune_pass, with_samples
from vitc.report import Report
from vitc.structure import tensors_of
from vitc.targets import Target
from vitc.targets import load as load_target

if TYPE_CHECKING:
    from vitc.lowering.tensorrt.engine import Engine as TensorRtEngine

Quantize = Literal["auto", "int8"] | None

#: captured → canonical. Each name is one file in passes/canonical/.
CANONICAL = (
    "drop-noops",  # first: the others match without dropout and copies in between
    "fold-constants",  # masks and position embeddings become weights
    "fold-batch-norm",
    "fold-layer-scale",
    "recognise-gelu",
    "recognise-layer-norm",
    "batch-first",  # nn.MultiheadAttention's [N, B, C]
    "drop-noops",
    "fuse-attention",  # every spelling → scaled_dot_product_attention
    "attention-4d",  # windows and merged heads
    "simplify-mask",
    "fold-constants",  # the biases they made
    "merge-qkv",  # three linears → one
    "order-qkv",  # one linear, sorted q, k, v
    "canonical",
)


def default_pipeline(
    target: Target,
    int8: bool,
    prune: Prune | None = None,
    int8_attention: bool | None = None,
    attention: Pass | None = None,
) -> tuple[Pass, ...]:
    """The passes for a target. Exact up to FP16 unless `int8`, `prune` or a lossy `attention` pass. `int8_attention` None:
    not on a CPU."""
    names = ["tile-attention"]
    if attention is not None:
        names.append(print_pass(attention))
    if int8:
        # The library engines of a CPU have no INT8 attention: its border stays in floating point there.
        border = "" if int8_attention or (int8_attention is None and target.kind != "cpu") else "{attention=false}"
        names.append(f"smooth-activations{border}")  # before the ranges are measured: it changes them
        names.append(f"quantize-int8{border}")
    if target.default_precision == "fp16":
        names.append("to-fp16")
    # Pruning stands between: it follows features through the canonical spellings, and tiles are chosen for what is left.
    return (*parse_pipeline(",".join(CANONICAL)), *((prune,) if prune else ()), *parse_pipeline(",".join(names)))


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


def plan(
    model: torch.nn.Module | torch.export.ExportedProgram,
    target: str | Path | Target = "cpu",
    *,
    example_inputs: Any = None,
    calibration: Any = None,
    prune: Budget | None = None,
    distill: Any = None,
    attention: str = "exact",
    quantize: Quantize = "auto",
    batch: BatchRange | None = BatchRange(),
    pipeline: str | Sequence[Pass] | None = None,
    dump: str | Path | None = None,
    progress: bool = False,
) -> Plan:
    """Everything `compile` does up to the ONNX model, without building an engine. Arguments as for `compile`."""
    device = target if isinstance(target, Target) else load_target(target)
    program = capture(model, device, example_inputs, batch)
    instruments = _instruments(dump, progress)
    start = _pruned(program, prune, calibration, pipeline, instruments)
    start = _distilled(start, program, distill, progress)
    return _plan(program, start, calibration, attention, quantize, pipeline, instruments)


def compile(
    model: torch.nn.Module | torch.export.ExportedProgram,
    target: str | Path | Target = "cpu",
    *,
    example_inputs: Any = None,
    calibration: Any = None,
    prune: Budget | None = None,
    distill: Any = None,
    attention: str = "exact",
    quantize: Quantize = "auto",
    evaluate: Callable[[Callable[..., Any]], float] | None = None,
    max_drop: float | None = None,
    resume: str | Path | None = None,
    batch: BatchRange | None = BatchRange(),
    pipeline: str | Sequence[Pass] | None = None,
    dump: str | Path | None = None,
    progress: bool = False,
) -> CompiledModel:
    """Compiles a Vision Transformer for a target.

    Nothing that costs accuracy happens unasked: with a model and a target only, the result is exact up to the target's
    default precision (FP16 on GPUs, FP32 on CPUs). INT8 needs `calibration`, pruning needs `prune`.

    model: any nn.Module in eval mode, or what torch.export.export returned.
    target: a name of `vitc.available_targets()`, a path to a TOML file, or a Target.
    example_inputs: a tensor, tuple or dict as forward takes it; None reads the model's own config.
    calibration: representative, preprocessed inputs: a tensor [n, C, H, W], or an iterable of batches; or a path to an
        .npy file of them or to a folder of images, which are preprocessed as a timm model's config says.
    prune: the share of the parameters to take away, as 0.35, or a dict: {'flops': 0.4}, {'latency': 0.3},
        {'params': 0.35, 'keep': ['blocks.0'], 'criterion': 'taylor', 'data': labelled_batches}; see `vitc.prune`.
    distill: what the pruned model learns from the given one on: tensors (inputs, labels) or a loader, or a dict:
        {'data': loader, 'stages': (vitc.Logits(epochs=5),), 'checkpoint': 'run.safetensors'}; see `vitc.distill`.
    attention: 'exact'; 'window', or the text of the pass with its options ('window-attention{window=256,overlap=64}'): each
        token attends to its own block and an overlap only, which costs accuracy and pays at high resolutions.
    quantize: 'auto' quantises where `calibration` is given (and, on a CPU, INT8 is measured to be faster here);
        'int8' always; None never.
    evaluate: a function that takes a callable model and returns a score, higher is better.
    max_drop: the most `evaluate`'s score may lose by INT8. Blocks that cost more stay in floating point, the fastest mix
        wins, and the report's ledger says why. Without `evaluate` the score is the share of calibration images that get
        the same class as in floating point.
    resume: a folder for the search's journal; a search that was killed goes on there, to the same result.
    batch: the range of batch sizes; None fixes the example's.
    pipeline: passes, or their text, instead of the default pipeline.
    dump: a folder for the graph after each pass.
    progress: a line on stderr as each step ends.

    Raises CaptureError, CalibrationError, DistillError, InputError, PipelineError, PassError, LoweringError, TargetError.
    """
    if evaluate is not None and max_drop is None:
        raise InputError("evaluate needs max_drop: the most that its score may lose by INT8, as max_drop=0.005")
    if max_drop is not None and not 0 <= max_drop < float("inf"):
        raise InputError(f"max_drop must be a number that is not negative, got {max_drop}")
    device = target if isinstance(target, Target) else load_target(target)
    program = capture(model, device, example_inputs, batch)
    calibration = replayable(calibration)
    instruments = _instruments(dump, progress)
    start = _pruned(program, prune, calibration, pipeline, instruments)
    start = _distilled(start, program, distill, progress)
    made = _plan(program, start, calibration, attention, quantize, pipeline, instruments)
    if made.program.stage != "quantized" or pipeline is not None:
        return _finished(CompiledModel.from_plan(made), made)
    measures = device.kind == "cpu" and quantize == "auto"
    if max_drop is not None:
        from vitc.mixed.choose import Mixes

        known = start.evolve(calibration=None).calibrated(made.program.ranges, made.program.vectors)
        mixes = Mixes(made, start, lambda passes: _plan(program, known, None, attention, None, passes, ()))
        chosen, made = mixes.fastest(evaluate, max_drop, resume)
        if made.program.stage != "quantized" or not measures:
            return _finished(chosen, made)
        return _faster(mixes.floating(), chosen, made)
    chosen = CompiledModel.from_plan(made)
    if not measures:
        return _finished(chosen, made)
    return _faster(CompiledModel.from_plan(_plan(program, start, None, attention, None, None, ())), chosen, made)


def _pruned(
    program: Program,
    budget: Budget | None,
    calibration: Any,
    pipeline: str | Sequence[Pass] | None,
    instruments: Sequence[Instrument],
) -> Program:
    """The program at stage 'pruned', or as it is without a budget."""
    if budget is None:
        return program
    if pipeline is not None:
        raise InputError("prune= and pipeline= exclude each other: write prune{ratio=…} into the pipeline")
    step, given = prune_pass(budget)
    program = with_samples(program, given.get("data", calibration), given.get("loss"))
    return run_pipeline(program, (*parse_pipeline(",".join(CANONICAL)), step), instruments)


def _distilled(student: Program, teacher: Program, wanted: Any, progress: bool) -> Program:
    """The pruned program, trained to do what the captured one does, or as it is if that is not wanted."""
    if wanted is None:
        return student
    if student.pruning is None:
        raise InputError("distill= learns back what prune= takes away; pass prune= too, or train a student with vitc.distill")
    from vitc.distillation.recover import recover

    return recover(student, teacher, wanted, progress)


def _attention_pass(attention: str) -> Pass | None:
    if attention == "exact":
        return None
    text = "window-attention" if attention == "window" else attention
    if not text.startswith("window-attention"):
        raise InputError(f"attention must be 'exact', 'window' or the text of a pass, got {attention!r}")
    (item,) = parse_pipeline(text)
    return item


def _plan(
    original: Program,
    program: Program,
    calibration: Any,
    attention: str,
    quantize: Quantize,
    pipeline: str | Sequence[Pass] | None,
    instruments: Sequence[Instrument],
) -> Plan:
    if quantize not in ("auto", "int8", None):
        raise InputError(f"quantize must be 'auto', 'int8' or None, got {quantize!r}")
    if quantize == "int8" and calibration is None and pipeline is None:
        raise CalibrationError("quantize='int8' needs calibration=images, a tensor or an iterable of batches")
    int8 = quantize is not None and calibration is not None
    if pipeline is None:
        lossy = _attention_pass(attention)
        passes = default_pipeline(program.target, int8, attention=lossy)
        if program.journal:  # pruned already
            done = parse_pipeline(",".join(entry.pass_text for entry in program.journal))
            passes = (*done, *passes[len(CANONICAL) :])
        if int8 and program.target.kind == "cpu" and native_refusal() is None:
            tiled = next(i for i, step in enumerate(passes) if step.name == "tile-attention") + 1
            program = run_pipeline(program, passes[len(program.journal) : tiled], instruments)
            if _native_attention(program):
                rest = default_pipeline(program.target, int8, int8_attention=True, attention=lossy)[len(CANONICAL) + 1 :]
                passes = (*passes[:tiled], *rest)
    else:
        passes = parse_pipeline(pipeline) if isinstance(pipeline, str) else tuple(pipeline)
    if calibration is not None:
        stream = calibration_stream(calibration, program)
        program = program.evolve(calibration=stream, samples=program.samples or Samples(stream))
    after = run_pipeline(program, passes[len(program.journal) :], instruments)
    model = lower(after)
    matches = match(model.proto)
    substitute(model.proto, matches)
    report = _report(original, after, passes, matches)
    return Plan(original, after, model, replace(report, lint=lint(model.proto, after.target).line()))


def _native_attention(program: Program) -> bool:
    """Whether the native CPU engine has the form of every attention: packed, no bias, heads in sixteens."""
    nodes = [n for n in program.graph.nodes if n.target is torch.ops.vitc.attention.default]
    return all(n.args[7] == "packed" and n.args[3] is None and n.args[5] % 16 == 0 for n in nodes)


def _report(before: Program, after: Program, passes: Sequence[Pass], matches: Sequence[Match]) -> Report:
    target = after.target
    costs = op_costs(after)
    prediction = predict(costs, measured_here(target) if target.kind == "cpu" else target)
    skipped = [] if after.stage == "quantized" else ["INT8: pass calibration=images (a tensor or batches of preprocessed inputs)"]
    if after.pruning is None:
        skipped.append("pruning: pass prune=0.35, or {'flops': 0.4}; it costs accuracy, which training recovers")
    return Report(
        target=target.name,
        pipeline=print_pipeline(passes),
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


def _instruments(dump: str | Path | None, progress: bool) -> tuple[Instrument, ...]:
    watchers: list[Instrument] = []
    if dump is not None:
        watchers.append(Dump(Path(dump)))
    if progress:
        watchers.append(Progress())
    return tuple(watchers)


def _faster(floating: CompiledModel, int8: CompiledModel, made: Plan) -> CompiledModel:
    """Times both in turn on this machine at batch 1 and keeps the faster."""
    inputs = [t[:1] for t in made.original.example_inputs]
    best = {"FP32": float("inf"), "INT8": float("inf")}
    for _ in range(4):
        for name, candidate in (("FP32", floating), ("INT8", int8)):
            started = time.perf_counter()
            candidate(*inputs)
            best[name] = min(best[name], time.perf_counter() - started)
    measured = {name: 1e3 * seconds for name, seconds in best.items()}
    ratio = best["FP32"] / best["INT8"]
    if ratio > 1.0:
        chosen, decision = int8, f"INT8 is kept: {ratio:.2f}× FP32 on this machine"
    else:
        chosen, decision = floating, f"INT8 does not pay here: {ratio:.2f}× FP32 on this machine; FP32 is kept"
    return _finished(chosen.with_report(replace(chosen.report(), measured_ms=measured)), made, decision)


def _finished(chosen: CompiledModel, made: Plan, decision: str | None = None) -> CompiledModel:
    """Adds the agreement with the original model, on the example inputs, and a decision."""
    inputs = [t[:1] for t in made.original.example_inputs]
    if made.original.batch is None:
        inputs = list(made.original.example_inputs)
    want = made.original.run(*inputs)
    got = list(tensors_of(chosen(*inputs)))
    cosine = min(_cosine(a, b) for a, b in zip(want, got, strict=True))
    report = replace(chosen.report(), agreement={"cosine to the original, example input": cosine})
    chosen = chosen.with_report(report)
    return chosen.decided(decision) if decision else chosen


def _cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    x, y = a.flatten().double(), b.flatten().double()
    norm = float(x.norm() * y.norm())
    return float(x @ y) / norm if norm else float(torch.equal(x, y))
