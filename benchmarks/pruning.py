"""Pruning, shown: accuracy by criterion, Torch-Pruning beside it, time and memory of the analysis, and measured speed.

    pip install -e '.[demo,bench]'
    python benchmarks/pruning.py     everything, about 40 minutes on two cores, with trained models at hand
    python benchmarks/pruning.py --only criteria --tasks digits --seeds 0

Sections (each prints Markdown; the committed output is benchmarks/results/pruning.md):

criteria   digits and figures (benchmarks/tasks.py): −33 % of the parameters without any tuning, −35 % with the same
           short recovery for all criteria; MLP channels only, as in VBP's protocol, and vitc's default, MLP channels
           and heads; and heads ranked the other way than by default
kinds      digits: other kinds beside MLP channels and heads, ranked within each structure and over all
peer       Torch-Pruning on the same trained model, ratio and recovery: accuracy and measured latency
analysis   time to find the groups of ViT-B/16 against Torch-Pruning's DependencyGraph
huge       ViT-H analysed and pruned: time and memory
speed      ViT-B/16 at −35 % of the parameters on this machine's CPU engine, FP32 and INT8
"""

from __future__ import annotations

import argparse
import copy
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tasks
import torch
from machine import stamp

import vitc
from vitc.frontend.capture import capture
from vitc.passes.pruning.find.grouping import find_groups
from vitc.pipeline.default import canonical
from vitc.targets import load as load_target

CRITERIA = ("l1", "variance", "obs", "taylor", "hessian", "grad-variance")
#: Epochs of recovery after pruning, and the share of the training's learning rate.
RECOVERY = {"digits": (1.0, 0.03), "figures": (0.25, 0.03)}
SAMPLES = 512
KINDS = (("mlp",), ("mlp", "heads"))


def samples(train: tasks.Data) -> list[tasks.Data]:
    """What the criteria look at: the first images of the training split, in batches of 64."""
    images, labels = train
    return [(images[i : i + 64], labels[i : i + 64]) for i in range(0, SAMPLES, 64)]


def pruned(
    task: tasks.Task, ratio: float, criterion: str, kinds: tuple[str, ...] = ("mlp",), ranking: str = "auto"
) -> torch.nn.Module:
    return vitc.prune(
        task.model, ratio, criterion=criterion, kinds=kinds, data=samples(task.train), ranking=ranking,
        example_inputs=task.train[0][:2],
    ).module  # fmt: skip


def other_ranking(criterion: str) -> str:
    """The one that is not the criterion's default."""
    return "isomorphic" if vitc.known_criteria()[criterion].comparable else "global"


def criteria(args: argparse.Namespace) -> Iterator[str]:
    yield "## Criteria\n"
    threads = torch.get_num_threads()
    torch.set_num_threads(args.training_threads or threads)
    yield f"{SAMPLES} training images for the criteria, change of the test score in points;"
    yield f"mean over seeds {args.seeds} (worst seed). vitc's default ranking: over all structures for"
    together = [c for c in args.criteria if other_ranking(c) == "isomorphic"]
    yield (
        f"{', '.join(together) or 'none of these'}, within each for the others; the last column has it the other way.\n"
    )
    for name in args.tasks:
        epochs, rate = RECOVERY[name]
        rows: dict[str, list[tuple[float, ...]]] = {}
        bases = []
        for seed in args.seeds:
            task = tasks.load(name, seed)
            base = task.metric(task.model)
            bases.append(base)
            for criterion in args.criteria:
                found = []
                for kinds in KINDS:
                    found.append(100 * (task.metric(pruned(task, 0.33, criterion, kinds)) - base))
                    module = tasks.fit(pruned(task, 0.35, criterion, kinds), task.train, epochs, seed, rate=rate)
                    found.append(100 * (task.metric(module) - base))
                found.append(
                    100 * (task.metric(pruned(task, 0.33, criterion, KINDS[-1], other_ranking(criterion))) - base)
                )
                rows.setdefault(criterion, []).append(tuple(found))
                print(name, seed, criterion, *(f"{value:+.2f}" for value in found), file=sys.stderr, flush=True)
        scores = ", ".join(f"{100 * base:.2f}" for base in bases)
        yield f"### {name}: unpruned {scores}; recovery {epochs:g} epochs\n"
        heads = [f"{' and '.join(kinds)}, {what}" for kinds in KINDS for what in ("−33 % untuned", "−35 % recovered")]
        heads.append("mlp and heads, −33 % untuned, the other ranking")
        yield f"| criterion | {' | '.join(heads)} |\n|{'---|' * (len(heads) + 1)}"
        for criterion, figures in rows.items():
            cells = [f"{statistics.mean(column):+.2f} ({min(column):+.2f})" for column in zip(*figures, strict=True)]
            yield f"| {criterion} | {' | '.join(cells)} |"
        yield ""
    torch.set_num_threads(threads)


def kinds(args: argparse.Namespace) -> Iterator[str]:
    """The criteria that score every kind, with both rankings."""
    yield "## Other kinds (digits)\n"
    yield (
        f"−33 % of the parameters, no tuning; change of the test score in points, mean over seeds {args.seeds} (worst"
        " seed).\n"
    )
    yield "| criterion | beside MLP channels and heads | within each structure | over all |\n|---|---|---|---|"
    for criterion in ("taylor", "hessian"):
        for others in (("width",), ("qk", "v"), ("blocks",)):
            cells = []
            for ranking in ("isomorphic", "global"):
                found = []
                for seed in args.seeds:
                    task = tasks.load("digits", seed)
                    module = pruned(task, 0.33, criterion, ("mlp", "heads", *others), ranking)
                    found.append(100 * (task.metric(module) - task.metric(task.model)))
                cells.append(f"{statistics.mean(found):+.2f} ({min(found):+.2f})")
            yield f"| {criterion} | {', '.join(others)} | {' | '.join(cells)} |"
    yield ""


def peer(args: argparse.Namespace) -> Iterator[str]:
    """Torch-Pruning's isomorphic MLP pruning, by magnitude and by Taylor, on timm's own model."""
    name = "figures" if "figures" in args.tasks else "digits"
    yield f"## Torch-Pruning side by side ({name}, seed 0)\n"
    yield (
        "The same trained model, MLP channels only where nothing else is said, parameters to within a channel, the same"
        " recovery;"
    )
    yield "latency of all on vitc's CPU engine, batch 1, best of the medians of 60 interleaved rounds.\n"
    task = tasks.load(name, 0)
    base = task.metric(task.model)
    epochs, rate = RECOVERY[name]
    found: dict[str, torch.nn.Module] = {f"vitc {c}": pruned(task, 0.35, c) for c in ("l1", "taylor", "obs")}
    found["vitc obs, MLP channels and heads"] = pruned(task, 0.35, "obs", ("mlp", "heads"))
    goal = _count(found["vitc obs"])
    for kind in ("magnitude", "taylor"):
        found[f"Torch-Pruning {kind}"] = _torch_pruning(task, kind, goal)
    rows = []
    engines = {}
    for label, module in found.items():
        raw = task.metric(module) - base
        tuned = task.metric(tasks.fit(module, task.train, epochs, 0, rate=rate)) - base
        engines[label] = vitc.compile(module, "cpu", example_inputs=task.train[0][:2])
        rows.append((label, _count(module), 100 * raw, 100 * tuned))
        print(rows[-1], file=sys.stderr, flush=True)
    engines["unpruned"] = vitc.compile(task.model, "cpu", example_inputs=task.train[0][:2])
    times = _times(engines)
    yield "| | params | no tuning | recovered | ms | against unpruned |\n|---|---|---|---|---|---|"
    yield f"| unpruned | {_count(task.model):,} | 0 | 0 | {times['unpruned']:.3f} | 1.00× |"
    for label, count, raw, tuned in rows:
        yield (
            f"| {label} | {count:,} | {raw:+.2f} | {tuned:+.2f} | {times[label]:.3f} |"
            f" {times['unpruned'] / times[label]:.2f}× |"
        )
    yield ""


def analysis(_: argparse.Namespace) -> Iterator[str]:
    yield "## Analysis\n"
    import timm
    import torch_pruning as tp

    model = timm.create_model("vit_base_patch16_224").eval()
    example = torch.randn(2, 3, 224, 224)
    began = time.process_time()
    program = capture(model, load_target("cpu"), example)
    captured = time.process_time() - began
    began = time.process_time()
    program = canonical(program)
    canonicalised = time.process_time() - began
    ours = min(_cpu_seconds(lambda: find_groups(program)) for _ in range(5))
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False  # its tracing does not see through SDPA
    theirs = min(
        _cpu_seconds(lambda: tp.DependencyGraph().build_dependency(model, example_inputs=example[:1])) for _ in range(5)
    )
    yield "CPU seconds of the process, the least of 5 runs: other load on the machine counts little.\n"
    yield "| ViT-B/16 | CPU s |\n|---|---|"
    yield f"| vitc: find_groups on the captured graph | {ours:.2f} |"
    yield f"| Torch-Pruning {tp.__version__}: DependencyGraph.build_dependency | {theirs:.2f} |"
    yield f"| vitc: capture (torch.export), shared with the compilation | {captured:.2f} |"
    yield f"| vitc: canonical passes, shared with the compilation | {canonicalised:.2f} |\n"


def huge(_: argparse.Namespace) -> Iterator[str]:
    yield "## ViT-H/14\n"
    code = (
        "import time, timm, torch, resource, vitc\nmodel = timm.create_model('vit_huge_patch14_224').eval()\nbegan, cpu"
        " = time.perf_counter(), time.process_time()\nmade = vitc.prune(model, 0.35)\nprint(time.perf_counter() -"
        " began, time.process_time() - cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,\n     "
        " sum(p.numel() for p in model.parameters()), sum(p.numel() for p in made.module.parameters()))\n"
    )
    preamble = "from vitc.frontend.torchvision_import import ensure_torchvision_imports\nensure_torchvision_imports()\n"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", preamble + code], capture_output=True, text=True, check=True
    )
    seconds, cpu, gigabytes, before, after = done.stdout.split()
    yield "Captured, analysed and pruned by l1; peak memory of the process, model included.\n"
    yield "| ViT-H/14 | params | wall | CPU time | peak memory |\n|---|---|---|---|---|"
    size = f"{int(before) / 1e6:.0f} M → {int(after) / 1e6:.0f} M"
    yield f"| −35 % | {size} | {float(seconds):.1f} s | {float(cpu):.1f} s | {float(gigabytes):.2f} GiB |\n"


def speed(_: argparse.Namespace) -> Iterator[str]:
    yield "## Measured speed: ViT-B/16, −35 % of the parameters\n"
    import timm

    torch.manual_seed(0)
    model = timm.create_model("vit_base_patch16_224").eval()
    images = torch.randn(8, 3, 224, 224)
    engines = {}
    module = vitc.prune(model, 0.35).module
    engines["FP32, pruned"] = vitc.compile(module, "cpu", example_inputs=images[:2], quantize=None)
    engines["INT8, pruned"] = vitc.compile(
        module, "cpu", example_inputs=images[:2], calibration=images, quantize="int8"
    )
    engines["FP32"] = vitc.compile(model, "cpu", quantize=None)
    engines["INT8"] = vitc.compile(model, "cpu", calibration=images, quantize="int8")
    times = _times(engines, rounds=5, calls=5)
    yield "Random weights: only the speed is shown. Batch 1, best of the medians of 5 interleaved rounds.\n"
    yield "| | ms | against the same precision unpruned |\n|---|---|---|"
    for label, ms in sorted(times.items()):
        yield f"| {label} | {ms:.1f} | {times[label[:4]] / ms:.2f}× |"
    yield ""


def _torch_pruning(task: tasks.Task, kind: str, goal: int) -> torch.nn.Module:
    """Torch-Pruning's pruner on the MLPs, at the ratio that comes nearest to `goal` parameters."""
    import torch_pruning as tp

    best: torch.nn.Module | None = None
    low, high = 0.0, 0.98
    for _ in range(8):
        ratio = (low + high) / 2
        model = copy.deepcopy(task.model)
        for module in model.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = False
        leaves = [(n, m) for n, m in model.named_modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)]
        others = [m for n, m in leaves if not n.endswith(("mlp.fc1", "mlp.0", "mlp.fc2", "mlp.2"))]
        importance = (
            tp.importance.GroupMagnitudeImportance() if kind == "magnitude" else tp.importance.GroupTaylorImportance()
        )
        pruner = tp.pruner.BasePruner(
            model, task.train[0][:1], importance=importance, pruning_ratio=ratio, isomorphic=True, global_pruning=True,
            ignored_layers=others,
        )  # fmt: skip
        if kind == "taylor":
            model.zero_grad()
            for images, labels in samples(task.train):
                torch.nn.functional.cross_entropy(model(images), labels).backward()
        pruner.step()
        model.zero_grad()
        for module in model.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = True
        if best is None or abs(_count(model) - goal) < abs(_count(best) - goal):
            best = model
        low, high = (low, ratio) if _count(model) < goal else (ratio, high)
    assert best is not None
    return best.eval()


def _count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _cpu_seconds(work: Callable[[], Any]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def _times(engines: dict[str, Any], rounds: int = 60, calls: int = 10) -> dict[str, float]:
    """ms a call at batch 1: in each round every engine in turn; the least of the rounds' medians."""
    best = dict.fromkeys(engines, float("inf"))
    for _ in range(rounds):
        for label, engine in engines.items():
            image = engine._example[0][:1]
            engine(image)
            median = statistics.median(_seconds(lambda e=engine, x=image: e(x)) for _ in range(calls))
            best[label] = min(best[label], 1e3 * median)
    return best


SECTIONS = {"criteria": criteria, "kinds": kinds, "peer": peer, "analysis": analysis, "huge": huge, "speed": speed}


def main() -> None:
    parser = argparse.ArgumentParser(description="pruning: accuracy, a peer, analysis time, speed")
    parser.add_argument("--only", nargs="+", default=list(SECTIONS), choices=list(SECTIONS))
    parser.add_argument("--tasks", nargs="+", default=list(RECOVERY), choices=list(RECOVERY))
    parser.add_argument("--criteria", nargs="+", default=list(CRITERIA), choices=list(CRITERIA))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--training-threads", type=int, help="in the section of the criteria, where nothing is timed")
    parser.add_argument("--out", type=Path, help="also write the report there")
    args = parser.parse_args()
    lines = [
        "# Pruning\n",
        f"{stamp(' '.join(['pruning.py', *sys.argv[1:]]), 'torch')} {torch.get_num_threads()} threads.\n",
    ]
    for name in args.only:
        lines += SECTIONS[name](args)
    lines.append(f"Peak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB.")
    print("\n".join(lines))
    if args.out is not None:
        args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
