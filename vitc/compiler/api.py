"""The road from a model to a compiled model, read top to bottom."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from vitc.calibration.preprocessing import Preprocessing
from vitc.compiler.agreement import judged
from vitc.compiler.choosing import choose
from vitc.compiler.compiled import CompiledModel
from vitc.compiler.exploring import title
from vitc.compiler.planning import Plan, make_plan
from vitc.compiler.request import Quantize, Request
from vitc.explorer import write
from vitc.graph.program import BatchRange
from vitc.pipeline.base import Pass
from vitc.pipeline.instruments import Instrument
from vitc.pruning import Budget
from vitc.targets import Target
from vitc.task import Task


def compile_request(model: torch.nn.Module | torch.export.ExportedProgram, request: Request) -> CompiledModel:
    """What `compile` does once its arguments are checked: plan, choose, judge."""
    made = make_plan(model, request)
    compiled = judged(choose(made), made)
    if request.explore is not None:
        write(
            made.told(compiled.program, compiled.onnx, compiled.report).story(title(request.explore)), request.explore
        )
    return compiled


def plan(
    model: torch.nn.Module | torch.export.ExportedProgram,
    target: str | Path | Target = "cpu",
    *,
    example_inputs: Any = None,
    task: Task | None = None,
    calibration: Any = None,
    prune: Budget | None = None,
    distill: Any = None,
    attention: str = "exact",
    quantize: Quantize = "auto",
    resume: str | Path | None = None,
    batch: BatchRange | None = BatchRange(),
    preprocessing: Preprocessing | None = None,
    pipeline: str | Sequence[Pass] | None = None,
    dump: str | Path | None = None,
    explore: str | Path | None = None,
    instruments: Sequence[Instrument] = (),
    progress: bool = False,
) -> Plan:
    """Everything `compile` does up to the ONNX model, without building an engine. Arguments as for `compile`."""
    made = make_plan(model, Request.of(**_named(locals())))
    if explore is not None:
        made.explore(explore)
    return made


def compile(
    model: torch.nn.Module | torch.export.ExportedProgram,
    target: str | Path | Target = "cpu",
    *,
    example_inputs: Any = None,
    task: Task | None = None,
    calibration: Any = None,
    prune: Budget | None = None,
    distill: Any = None,
    attention: str = "exact",
    quantize: Quantize = "auto",
    evaluate: Callable[[Callable[..., Any]], float] | None = None,
    max_drop: float | None = None,
    resume: str | Path | None = None,
    batch: BatchRange | None = BatchRange(),
    preprocessing: Preprocessing | None = None,
    pipeline: str | Sequence[Pass] | None = None,
    dump: str | Path | None = None,
    explore: str | Path | None = None,
    instruments: Sequence[Instrument] = (),
    progress: bool = False,
) -> CompiledModel:
    """Compiles a Vision Transformer for a target.

    Nothing that costs accuracy happens unasked: with a model and a target only, the result is exact up to the target's
    default precision (FP16 on GPUs, FP32 on CPUs), and what is not exact is refused. INT8 needs `calibration`, pruning
    needs `prune`. Arguments that contradict each other are refused before anything begins; none is ignored.

    model: any nn.Module in eval mode, or what torch.export.export returned.
    target: a name of `vitc.available_targets()`, a path to a TOML file, or a Target.
    example_inputs: a tensor, tuple or dict as forward takes it; None reads the model's own config.
    task: what the outputs mean, as vitc.Classification(labels=…) or vitc.Detection(…), for `vitc run BUNDLE photo.jpg`
        and `vitc watch`; None reads the model's own config, where timm, transformers or torchvision made it.
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
    preprocessing: how a photograph becomes the input: vitc.Preprocessing(size, mean, std); None reads the model's own
        config.
    pipeline: passes, or their text, instead of the default pipeline.
    dump: a folder for the graph after each pass.
    explore: an HTML file that shows what each pass did; see `vitc explore`.
    instruments: watchers of each pass, as vitc.Numerics(limit=1e-3), which names the first pass that changes the
        result.
    progress: a line on stderr as each step ends.

    Raises AccuracyError, CaptureError, CalibrationError, DistillError, InputError, PipelineError, PassError,
    LoweringError, TargetError.
    """
    return compile_request(model, Request.of(**_named(locals())))


def _named(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments of the caller but for its model."""
    return {name: value for name, value in arguments.items() if name != "model"}
