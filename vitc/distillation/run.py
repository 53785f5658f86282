"""The training loop: one stage after another, resumable after any step that was saved."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from vitc import state_file
from vitc.distillation import checkpoint as files
from vitc.distillation.batches import Batch, place, reseed, stream
from vitc.distillation.config import DistillConfig, Features, Stage
from vitc.distillation.losses import features_loss, logits_loss
from vitc.distillation.optimizers import OptimizerFactory, set_rates
from vitc.distillation.progress import Bar
from vitc.distillation.scope import Scope, released, set_training, student_and_teacher
from vitc.distillation.weights import Weights
from vitc.distillation.workers import Workers
from vitc.errors import DistillError, InputError

Evaluate = Callable[[torch.nn.Module], float]


class Entry(NamedTuple):
    """A loss or a score: the stage's name, the step in it (from 1), the value."""

    stage: str
    step: int
    value: float


@dataclass
class State:
    """Where a run stands, besides its tensors.

    stage:  the index of the stage.
    step:   how many of its steps are finished.
    waited: scores since the best one.
    best:   the best score so far.
    losses: (stage, step, value) of each step.
    scores: (stage, step, value) of each score.
    """

    stage: int = 0
    step: int = 0
    waited: int = 0
    best: float | None = None
    losses: list[Entry] = field(default_factory=list)
    scores: list[Entry] = field(default_factory=list)


@dataclass
class Run:
    """One distillation. The student is trained in place."""

    student: torch.nn.Module
    teacher: torch.nn.Module
    loader: Any
    stages: Sequence[Stage]
    config: DistillConfig
    optimizer: OptimizerFactory
    evaluate: Evaluate | None
    path: Path | None
    workers: Workers
    bar: Bar
    state: State = field(default_factory=State)
    resumed: state_file.Tensors = field(default_factory=dict)
    numbers: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.weights = Weights(self.student, self.config.ema)

    def finish(self) -> None:
        """Runs what is left, and leaves the student in eval mode with its final weights."""
        if self.path is not None and self.path.exists():
            self._restore(self.path)
        for index in range(self.state.stage, len(self.stages)):
            self._run_stage(index)
        self.weights.settle()
        set_training(self.student, False)

    def _run_stage(self, index: int) -> None:
        stage, seed = self.stages[index], place(self.config.seed, "stage", index)
        reseed(seed)
        first = next(stream(self.loader, 0, seed)).to(self.workers.device)
        scope, teacher = student_and_teacher(stage, self.student, self.teacher, first)
        with released(scope.student, teacher):
            scope.to(self.workers.device)
            optimizers = self.optimizer([(n, p) for n, p in scope.named_parameters() if p.requires_grad], stage.rate)
            model, loader = self.workers.prepare(scope, self.loader)
            self._resume_stage(scope, optimizers)
            total = max(1, round(stage.epochs * len(loader) / self.config.accumulate))
            every = self.config.evaluate_every or max(1, len(loader) // self.config.accumulate)
            batches = stream(loader, self.state.step * self.config.accumulate, seed, self.workers.rank, self.loader)
            set_training(self.student, True)
            self.bar.begin(stage.name, self.state.step, total)
            for step in range(self.state.step, total):
                set_rates(optimizers, step, total, self.config.warmup)
                loss = self._step(stage, model, teacher, optimizers, batches, place(seed, "step", step))
                self.state.step = step + 1
                self.state.losses.append(Entry(stage.name, step + 1, loss))
                self.bar.step(loss)
                if (
                    self.evaluate is not None
                    and ((step + 1) % every == 0 or step + 1 == total)
                    and self._worse(stage.name)
                ):
                    break
                if (step + 1) % self.config.checkpoint_every == 0:
                    self._save(scope, optimizers)
        self.state.stage, self.state.step, self.state.waited = index + 1, 0, 0
        self._save(None, ())

    def _step(
        self,
        stage: Stage,
        model: torch.nn.Module,
        teacher: torch.nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        batches: Iterator[Batch],
        seed: int,
    ) -> float:
        """One update of the weights. Returns the loss, averaged over batches and processes."""
        for optimizer in optimizers:
            optimizer.zero_grad()
        total = torch.zeros((), device=self.workers.device)
        for i in range(self.config.accumulate):
            batch = next(batches).to(self.workers.device)
            reseed(seed, i, self.workers.rank)
            last = i == self.config.accumulate - 1
            with nullcontext() if last else self.workers.without_sync(model):
                with self._autocast():
                    loss = _loss(stage, model, teacher, batch) / self.config.accumulate
                loss.backward()
            total += loss.detach()
        value = self.workers.mean(total)
        if not math.isfinite(value):
            raise DistillError(self._diverged(stage, value))
        if self.config.clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), self.config.clip)
        for optimizer in optimizers:
            optimizer.step()
        self.weights.update_average()
        return value

    def _autocast(self) -> AbstractContextManager[Any]:
        kind = self.workers.device.type
        wanted = self.config.precision == "bf16" or (
            self.config.precision == "auto" and kind == "cuda" and torch.cuda.is_bf16_supported()
        )
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=wanted)

    def _diverged(self, stage: Stage, value: float) -> str:
        step = self.state.step
        saved = (
            f"; the checkpoint {self.path} is of an earlier step"
            if self.path is not None and self.path.exists()
            else ""
        )
        return (
            f"the loss is {value} at step {step + 1} of stage {stage.name!r}; the student keeps the weights of step"
            f" {step}{saved}. Look for NaN in the data and in the teacher's outputs, or lower the stage's rate (now"
            f" {stage.rate:g})"
        )

    def _worse(self, stage: str) -> bool:
        """Scores the student; True if its patience is over."""
        assert self.evaluate is not None
        with self.weights.averaged():
            set_training(self.student, False)
            with torch.no_grad():
                score = self.workers.same(float(self.evaluate(self.student)) if self.workers.rank == 0 else None)
            set_training(self.student, True)
            if not math.isfinite(score):
                raise InputError(f"evaluate returned {score}; it must return a finite number, higher is better")
            self.state.scores.append(Entry(stage, self.state.step, score))
            self.bar.score(score)
            if self.state.best is None or score > self.state.best:
                self.state.best, self.state.waited = score, 0
                self.weights.keep_best()
                return False
        self.state.waited += 1
        return self.config.patience is not None and self.state.waited >= self.config.patience

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a run to go on."""
        identity = {k: v for k, v in asdict(self.config).items() if k != "checkpoint_every"}
        for i, stage in enumerate(self.stages):
            identity |= {f"stages[{i}].{k}": v for k, v in {"name": stage.name, **asdict(stage)}.items()}
        return identity | {
            "number of stages": len(self.stages),
            "batches in an epoch": len(self.loader),
            "processes": self.workers.count,
            "optimizer": getattr(self.optimizer, "__qualname__", type(self.optimizer).__qualname__),
            "evaluate": self.evaluate is not None,
            "the student's shapes": files.fingerprint(self.student, values=False),
            "the teacher's weights": files.fingerprint(self.teacher, values=True),
        }

    def _save(self, scope: Scope | None, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        if self.path is None:
            return
        if self.workers.rank == 0:
            moments, numbers = files.optimizer_tensors(optimizers)
            parts = self.weights.parts() | {"optimizer": moments}
            if scope is not None:
                parts["maps"] = dict(scope.maps.state_dict())
            tensors = {
                name: tensor for prefix, part in parts.items() for name, tensor in files.pack(prefix, part).items()
            }
            state_file.write(
                self.path,
                tensors,
                {"run": self._identity(), "state": asdict(self.state), "numbers": numbers},
            )
        self.workers.wait()

    def _restore(self, path: Path) -> None:
        tensors, saved = files.read(path)
        files.check_same(path, saved["run"], self._identity())
        state = saved["state"]
        for kind in ("losses", "scores"):
            state[kind] = [Entry(*entry) for entry in state[kind]]
        self.state, self.numbers, self.resumed = State(**state), saved["numbers"], tensors
        self.weights.restore({name: files.unpack(name, tensors) for name in self.weights.parts()})

    def _resume_stage(self, scope: Scope, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Once after a restart in the middle of a stage: what only that stage has."""
        if self.state.step:
            scope.maps.load_state_dict(files.unpack("maps", self.resumed))
            files.restore_optimizers(optimizers, files.unpack("optimizer", self.resumed), self.numbers)
        self.resumed, self.numbers = {}, {}


def _loss(stage: Stage, model: torch.nn.Module, teacher: torch.nn.Module, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        target, wanted = batch.call(teacher)
    output, features = batch.call(model)
    if isinstance(stage, Features):
        return features_loss(features, wanted)
    return logits_loss(stage, output, target, batch.labels)
