"""The road from a model to a compiled model, read top to bottom."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vitc.calibration.stream import replayable
from vitc.compiler.choices import INT8_EVERYWHERE, Choices, Quantize
from vitc.compiler.compiled import CompiledModel
from vitc.compiler.planning import Plan, make_plan
from vitc.errors import InputError
from vitc.frontend.capture import capture
from vitc.graph.program import BatchRange, Program
from vitc.graph.structure import tensors_of
from vitc.lowering.cpu.rates import measured_here
from vitc.pipeline.base import Pass
from vitc.pipeline.default import CANONICAL
from vitc.pipeline.instruments import Dump, Instrument, Progress
from vitc.pipeline.manager import run_pipeline
from vitc.pipeline.text import parse_pipeline
from vitc.pruning import Budget, prune_pass, with_samples
from vitc.targets import Target
from vitc.targets import load as load_target


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
    resume: str | Path | None = None,
    batch: BatchRange | None = BatchRange(),
    pipeline: str | Sequence[Pass] | None = None,
    dump: str | Path | None = None,
    progress: bool = False,
) -> Plan:
    """Everything `compile` does up to the ONNX model, without building an engine. Arguments as for `compile`."""
    choices = Choices(attention, quantize, pipeline)
    program = capture(model, _device(target, prune is not None or choices.prunes), example_inputs, batch)
    calibration = replayable(calibration)  # pruning may read it, then calibration
    instruments = _instruments(dump, progress)
    start = _pruned(program, prune, calibration, pipeline, instruments)
    start = _distilled(start, program, distill, progress)
    return make_plan(program, start, calibration, choices, instruments, resume)


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
    attention: 'exact'; 'window', or the text of the pass with its options ('window-attention{window=256,overlap=64}'):
        each token attends to its own block and an overlap only, which costs accuracy and pays at high resolutions.
    quantize: 'auto' quantizes where `calibration` is given (and, on a CPU, INT8 is measured to be faster here);
        'int8' always; None never; 'quantize-int8{rounding=gptq}', the text of the pass: always, with these options.
    evaluate: a function that takes a callable model and returns a score, higher is better.
    max_drop: the most `evaluate`'s score may lose by INT8. Blocks that cost more stay in floating point (the first and
        the last layer are tried too), the fastest mix wins, and the report's ledger says why. Without `evaluate` the
        score is the share of calibration images that get the same class as in floating point.
    resume: a folder for the journals of calibration and of the search; what was killed goes on there, to the same
    result.
    batch: the range of batch sizes; None fixes the example's.
    pipeline: passes, or their text, instead of the default pipeline.
    dump: a folder for the graph after each pass.
    progress: a line on stderr as each step ends.

    Raises CaptureError, CalibrationError, DistillError, InputError, PipelineError, PassError, LoweringError,
    TargetError.
    """
    if evaluate is not None and max_drop is None:
        raise InputError("evaluate needs max_drop: the most that its score may lose by INT8, as max_drop=0.005")
    if max_drop is not None and not 0 <= max_drop < float("inf"):
        raise InputError(f"max_drop must be a number that is not negative, got {max_drop}")
    # A search measures the first and the last layer too; without one they stay in floating point.
    measured = calibration is not None and max_drop is not None and quantize in ("auto", "int8")
    choices = Choices(attention, INT8_EVERYWHERE if measured else quantize, pipeline)
    program = capture(model, _device(target, prune is not None or choices.prunes), example_inputs, batch)
    calibration = replayable(calibration)
    instruments = _instruments(dump, progress)
    start = _pruned(program, prune, calibration, pipeline, instruments)
    start = _distilled(start, program, distill, progress)
    made = make_plan(program, start, calibration, choices, instruments, resume)
    if made.program.stage != "quantized" or pipeline is not None:
        return _finished(CompiledModel.from_plan(made), made)
    measures = program.target.kind == "cpu" and quantize == "auto"
    if max_drop is not None:
        from vitc.compiler.mixes import Mixes

        mixes = Mixes(
            made,
            start,
            lambda begun, passes: make_plan(program, begun, None, replace(choices, quantize=None, pipeline=passes)),
        )
        chosen, made = mixes.fastest(evaluate, max_drop, resume)
        if made.program.stage != "quantized" or not measures:
            return _finished(chosen, made)
        return _faster(mixes.floating(), chosen, made)
    chosen = CompiledModel.from_plan(made)
    if not measures:
        return _finished(chosen, made)
    return _faster(
        CompiledModel.from_plan(make_plan(program, start, None, replace(choices, quantize=None))), chosen, made
    )


def _device(target: str | Path | Target, prunes: bool) -> Target:
    """The target, with rates that cuts can be weighed by where any will be made."""
    device = target if isinstance(target, Target) else load_target(target)
    return measured_here(device) if prunes else device


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
        raise InputError(
            "distill= learns back what prune= takes away; pass prune= too, or train a student with vitc.distill"
        )
    from vitc.distillation.recover import recover

    return recover(student, teacher, wanted, progress)


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
