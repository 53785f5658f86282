"""vitc: the compiler that makes Vision Transformers fast on real devices.

>>> import vitc
>>> compiled = vitc.compile(model, target="orin", calibration=images)
>>> compiled(x)

Everything is loaded on first use: `import vitc` itself imports no torch.

frontend/      from the user's model to a captured Program
calibration/   from the user's images to the stream that passes read
targets/       what is known of each device
graph/         the Program, and how it is read, changed and written
pipeline/      passes by name, in order, watched
passes/        the rewrites
distillation/  a student learns from its teacher
cost/          what a graph should cost on a device
pruning        vitc.prune: a model in, a smaller trainable module out
mixed/         which mix of INT8 and floating point is the fastest within a budget
lowering/      from the last graph to an engine
kernels/       the attention kernel
compiler/      the road through all of these
bundle/        a compiled model on disk
runtime/       the device side
video/         from a frame to labels and boxes, on the device
explorer/      what happened, as one HTML file
explore        that file from a shell
cli            the same from a shell
demo/          `python -m vitc.demo`
doctor         what is installed here, and what can be built
printable      names from files as a terminal may have them
ownership      whose a file is: code is loaded from files of one's own
task           what a model's outputs mean: labels, scores, boxes
files/         files read with care, and saved in one step
state_file     one file for the state of something long
errors         everything that vitc raises on purpose
exit_codes     what a command ends with, for vitc and python -m vitc.runtime
terminal       one line for what went wrong, on whatever terminal there is
version        the version

docs/architecture.md follows a model through them; tests/test_layers.py says who may import whom.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vitc.version import __version__ as __version__

_HOMES = {
    "BatchRange": "vitc.graph.program",
    "Classification": "vitc.task",
    "CompiledModel": "vitc.compiler.compiled",
    "Detection": "vitc.task",
    "DistillConfig": "vitc.distillation",
    "DistillResult": "vitc.distillation",
    "Dump": "vitc.pipeline.instruments",
    "Features": "vitc.distillation",
    "Instrument": "vitc.pipeline.instruments",
    "ImageFolder": "vitc.calibration.preprocessing",
    "AccuracyError": "vitc.errors",
    "AccuracyWarning": "vitc.errors",
    "InternalError": "vitc.errors",
    "Layer": "vitc.passes.pruning.score.facts",
    "Logits": "vitc.distillation",
    "Numerics": "vitc.pipeline.instruments",
    "Pass": "vitc.pipeline.base",
    "Plan": "vitc.compiler.planning",
    "Preprocessing": "vitc.calibration.preprocessing",
    "Program": "vitc.graph.program",
    "Rewriter": "vitc.graph.rewriter",
    "Target": "vitc.targets",
    "Criterion": "vitc.passes.pruning.score.criteria",
    "PrunePlan": "vitc.passes.pruning.plan",
    "Pruned": "vitc.pruning",
    "VitcError": "vitc.errors",
    "available_targets": "vitc.targets:available",
    "compile": "vitc.compiler.api",
    "distill": "vitc.distillation",
    "known_criteria": "vitc.passes.pruning.score.criteria",
    "known_passes": "vitc.pipeline.registry",
    "lint": "vitc.lowering.lint",
    "load": "vitc.runtime",
    "load_target": "vitc.targets:load",
    "plan": "vitc.compiler.api",
    "prunable_groups": "vitc.pruning",
    "prune": "vitc.pruning",
    "read_dump": "vitc.graph.reader",
    "register_criterion": "vitc.passes.pruning.score.criteria",
    "register_pass": "vitc.pipeline.registry",
    "sensitivity": "vitc.mixed.sensitivity",
    "replay_pruning": "vitc.pruning",
}

if TYPE_CHECKING:
    from vitc.calibration.preprocessing import ImageFolder, Preprocessing
    from vitc.compiler.api import compile, plan
    from vitc.compiler.compiled import CompiledModel
    from vitc.compiler.planning import Plan
    from vitc.distillation import DistillConfig, DistillResult, Features, Logits, distill
    from vitc.errors import AccuracyError, AccuracyWarning, InternalError, VitcError
    from vitc.graph.program import BatchRange, Program
    from vitc.graph.reader import read_dump
    from vitc.graph.rewriter import Rewriter
    from vitc.lowering.lint import lint
    from vitc.mixed.sensitivity import sensitivity
    from vitc.passes.pruning.plan import PrunePlan
    from vitc.passes.pruning.score.criteria import Criterion, known_criteria, register_criterion
    from vitc.passes.pruning.score.facts import Layer
    from vitc.pipeline.base import Pass
    from vitc.pipeline.instruments import Dump, Instrument, Numerics
    from vitc.pipeline.registry import known_passes, register_pass
    from vitc.pruning import Pruned, prunable_groups, prune, replay_pruning
    from vitc.runtime import load
    from vitc.targets import Target
    from vitc.targets import available as available_targets
    from vitc.targets import load as load_target
    from vitc.task import Classification, Detection

__all__ = [
    "AccuracyError",
    "AccuracyWarning",
    "BatchRange",
    "Classification",
    "CompiledModel",
    "Criterion",
    "Detection",
    "DistillConfig",
    "DistillResult",
    "Dump",
    "Features",
    "ImageFolder",
    "Instrument",
    "InternalError",
    "Layer",
    "Logits",
    "Numerics",
    "Pass",
    "Plan",
    "Preprocessing",
    "Program",
    "PrunePlan",
    "Pruned",
    "Rewriter",
    "Target",
    "VitcError",
    "available_targets",
    "compile",
    "distill",
    "known_criteria",
    "known_passes",
    "lint",
    "load",
    "load_target",
    "plan",
    "prunable_groups",
    "prune",
    "read_dump",
    "register_criterion",
    "register_pass",
    "replay_pruning",
    "sensitivity",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vitc' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    value = getattr(import_module(module), attribute or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
