"""vitc.prune: a model in, a smaller trainable module out, with the plan that made it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from vitc.calibration.samples import Loss, Samples
from vitc.calibration.source import calibration_stream
from vitc.calibration.stream import CalibrationStream
from vitc.errors import InputError, unknown
from vitc.frontend.capture import capture
from vitc.graph.program import BatchRange, Program
from vitc.lowering.cpu.rates import measured_here
from vitc.passes.pruning.find.grouping import find_groups
from vitc.passes.pruning.find.groups import Groups
from vitc.passes.pruning.plan import PrunePlan
from vitc.passes.pruning.prune import Prune
from vitc.passes.pruning.replay import replay
from vitc.pipeline.default import canonical
from vitc.pipeline.manager import run_pipeline
from vitc.targets import Target
from vitc.targets import load as load_target

_MEASURES = ("params", "flops", "latency")
_DATA = ("data", "loss")

#: What `prune=` takes: a share of the parameters, or a dict of one of params, flops, latency and of Prune's options.
Budget = float | Mapping[str, Any]


@dataclass(frozen=True)
class Pruned:
    """What `vitc.prune` gives.

    module:  an nn.Module that trains, with the model's own inputs, outputs and names of weights.
    plan:    what went, as an artefact.
    program: the graph, at stage 'pruned'.
    """

    module: torch.nn.Module
    plan: PrunePlan
    program: Program

    @property
    def report(self) -> PruneReport:
        """Parameters, bytes, FLOPs and predicted time by block, before and after, and each cut."""
        return PruneReport(self.plan)


@dataclass(frozen=True)
class PruneReport:
    """What pruning did: `text()` and `str()` for people, `to_dict()` for scripts, as of every report."""

    plan: PrunePlan

    def text(self) -> str:
        """The report as lines of text."""
        return self.plan.text()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self.plan)

    def __str__(self) -> str:
        return self.text()

    def __contains__(self, text: str) -> bool:
        return text in self.text()

    def __getattr__(self, name: str) -> Any:
        """0.1's report was a str; its methods go with 0.3."""
        if name.startswith("_") or not hasattr(str, name):
            raise AttributeError(f"a PruneReport has no {name!r}; it has text() and to_dict()")
        warnings.warn(f"write report.text().{name}: a report is no str", DeprecationWarning, stacklevel=2)
        return getattr(self.text(), name)


def prune(
    model: torch.nn.Module | torch.export.ExportedProgram,
    budget: Budget,
    *,
    criterion: str = "auto",
    data: Any = None,
    loss: Loss | None = None,
    target: str | Path | Target = "cpu",
    ranking: str = "auto",
    kinds: str | Sequence[str] = ("mlp", "heads"),
    keep: str | Sequence[str] = (),
    steps: int = 1,
    train: Callable[[torch.nn.Module], Any] | None = None,
    example_inputs: Any = None,
    batch: BatchRange | None = BatchRange(),
) -> Pruned:
    """Removes channels, heads or dimensions of heads until the budget is met.

    budget: the share of the parameters to take away, as 0.35; or {'params': …}, {'flops': …}, {'latency': …}, with any
        of this function's options beside it.
    criterion: a name of `vitc.known_criteria()`; 'auto' is 'obs' with data, 'l1' without.
    data: batches of (inputs, labels), or of inputs where the criterion needs no gradients.
    loss: a function of (outputs, labels); None is cross-entropy.
    ranking: 'isomorphic' takes the same share of each structure, 'global' ranks all units by score per cost; 'auto' is
        'global' for criteria whose scores can be compared between structures (obs, taylor, hessian), else 'isomorphic'.
    kinds: what may go: 'mlp', 'heads', 'qk' and 'v' (dimensions of heads), 'width' (of the residual stream), 'blocks'.
    keep: modules that are left alone, as paths or patterns.
    target: whose tiles widths are rounded to, and on which time is predicted; a CPU is measured for a second, once in
        each process.
    steps, train: an iterative schedule; `train(module)` runs after each step but the last.

    Raises CaptureError, InputError, PassError, TargetError.
    """
    if steps < 1 or (steps > 1 and train is None):
        raise InputError(
            f"steps is {steps}: one, or more together with train=a function that trains the module between them"
        )
    if steps == 1 and train is not None:
        raise InputError("train= runs between the steps of a schedule, and steps=1 has none; pass steps=2 or more")
    if loss is not None and data is None:
        raise InputError("loss= is what criteria follow over data=batches of (inputs, labels), and there is no data")
    device = measured_here(load_target(target))
    options = {"criterion": criterion, "ranking": ranking, "kinds": _names(kinds), "keep": _names(keep)}
    step, given = prune_pass(budget, **options)
    program = canonical(capture(model, device, example_inputs, batch))
    program = with_samples(program, given.get("data", data), given.get("loss", loss))
    ratio = 1.0 - (1.0 - step.ratio) ** (1.0 / steps)
    for i in range(steps):
        program = run_pipeline(program, (_with_ratio(step, ratio),))
        program = program.owned()
        if train is not None and i < steps - 1:
            train(program.module)
            program.module.eval()
    return _pruned(program)


def _names(given: str | Sequence[str]) -> tuple[str, ...]:
    """One name, or several."""
    return (given,) if isinstance(given, str) else tuple(given)


def replay_pruning(
    model: torch.nn.Module,
    plan: PrunePlan | str | Path,
    *,
    data: Any = None,
    target: str | Path | Target = "cpu",
    example_inputs: Any = None,
    batch: BatchRange | None = BatchRange(),
) -> Pruned:
    """The model pruned as a plan says: on another checkpoint, or to load a saved state dict into.

    Raises PassError if the plan was made for another model.
    """
    device = load_target(target)
    program = with_samples(canonical(capture(model, device, example_inputs, batch)), data, None)
    made = plan if isinstance(plan, PrunePlan) else PrunePlan.load(plan)
    return _pruned(replay(made, program.fork()).owned())


def prunable_groups(
    model: torch.nn.Module | torch.export.ExportedProgram,
    target: str | Path | Target = "cpu",
    *,
    example_inputs: Any = None,
) -> Groups:
    """What can be cut from a model, and what cannot with the reason: `text()` for people, `to_dict()` for scripts."""
    device = load_target(target)
    return find_groups(canonical(capture(model, device, example_inputs)))


def prune_pass(budget: Budget, **options: Any) -> tuple[Prune, dict[str, Any]]:
    """The pass for a budget, and what of it is data. Raises InputError naming what the budget takes."""
    if isinstance(budget, (int, float)) and not isinstance(budget, bool):
        budget = {"params": float(budget)}
    if not isinstance(budget, Mapping):
        raise InputError(
            f"a pruning budget is a number, as 0.35, or a dict, as {{'flops': 0.4}}; got {type(budget).__name__}"
        )
    known = (*_MEASURES, *_DATA, "criterion", "ranking", "kinds", "keep", "quantum", "floor", "plan")
    for key in budget:
        if key not in known:
            raise InputError(unknown("key of a pruning budget", str(key), known))
    measures = [m for m in _MEASURES if m in budget]
    given = {k: v for k, v in budget.items() if k in _DATA}
    chosen = options | {
        k: _names(v) if k in ("kinds", "keep") else v for k, v in budget.items() if k not in (*_MEASURES, *_DATA)
    }
    if "plan" in budget:
        beside = [key for key in budget if key not in ("plan", *_DATA)]
        if beside:
            raise InputError(
                f"a saved pruning plan says all that is cut; leave {', '.join(beside)} away, or leave the plan away"
            )
        return Prune(plan=str(budget["plan"])), given
    if len(measures) != 1:
        raise InputError(f"a pruning budget names one of {', '.join(_MEASURES)}; got {', '.join(measures) or 'none'}")
    ratio = budget[measures[0]]
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float)):
        raise InputError(f"the {measures[0]} of a pruning budget is the share to take away, as 0.35; got {ratio!r}")
    return Prune(ratio=float(ratio), of=measures[0], **chosen), given  # type: ignore[arg-type]


def with_samples(program: Program, data: Any, loss: Loss | None) -> Program:
    """The program with what criteria look at."""
    if data is None:
        return program
    stream = data if isinstance(data, CalibrationStream) else calibration_stream(data, program)
    return program.evolve(samples=Samples(stream, loss))


def _with_ratio(step: Prune, ratio: float) -> Prune:
    return step if step.plan is not None else replace(step, ratio=ratio)


def _pruned(program: Program) -> Pruned:
    assert program.pruning is not None
    return Pruned(program.module, program.pruning, program)
