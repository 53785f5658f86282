"""The budget search on ViT-B/16: time, memory, and a kill in the middle.

    python benchmarks/int8_budget.py > benchmarks/results/int8_budget.md

timm's vit_base_patch16_224 with random weights, 64 calibration images, target orin, no label: the score is agreement
with floating point. A first process is killed (SIGKILL) once its journal has a few answers; a second one goes on to the
end. A third, uninterrupted, must find the same.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from machine import stamp

import vitc

IMAGES = 64


def images() -> torch.Tensor:
    """Blocks of 16 pixels with noise on top: neither flat nor pure noise."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn(IMAGES, 3, 14, 14, generator=generator).repeat_interleave(16, 2).repeat_interleave(16, 3)
    return coarse + 0.3 * torch.randn(IMAGES, 3, 224, 224, generator=generator)


def run(folder: str, max_drop: float, model: str, result: Any) -> None:
    from vitc.frontend.torchvision_import import ensure_torchvision_imports

    ensure_torchvision_imports()
    import timm

    torch.manual_seed(0)
    began, cpu = time.perf_counter(), time.process_time()
    network = timm.create_model(model).eval()
    report = vitc.compile(network, "orin", calibration=images(), max_drop=max_drop, resume=folder).report
    assert report.ledger is not None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    result.put((time.perf_counter() - began, time.process_time() - cpu, peak, report.pipeline, report.ledger.text()))


def answers(folder: Path) -> int:
    path = folder / "vitc-search.json"
    return len(json.loads(path.read_text())["answers"]) if path.exists() else 0


def start(folder: Path, args: argparse.Namespace) -> tuple[Any, Any]:
    context = multiprocessing.get_context("spawn")
    result = context.Queue()
    process = context.Process(target=run, args=(str(folder), args.max_drop, args.model, result))
    process.start()
    return process, result


def main() -> None:
    parser = argparse.ArgumentParser(description="the INT8 budget search on ViT-B/16")
    parser.add_argument("--max-drop", type=float, default=0.0)
    parser.add_argument("--model", default="vit_base_patch16_224")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cut, whole = Path(folder) / "cut", Path(folder) / "whole"
        process, _ = start(cut, args)
        while answers(cut) < 5 and process.is_alive():
            time.sleep(0.2)
        process.kill()
        process.join()
        kept = answers(cut)
        rows = {}
        for name, place in (("resumed", cut), ("uninterrupted", whole)):
            process, result = start(place, args)
            rows[name] = result.get()
            process.join()
        same = rows["resumed"][3:] == rows["uninterrupted"][3:]
    print("# The INT8 budget search\n")
    print(stamp("int8_budget.py", "torch", "timm"))
    print(f"{args.model}, random weights, {IMAGES} calibration images, target orin, ", end="")
    print(f"max_drop={args.max_drop:g}, {torch.get_num_threads()} threads.\n")
    print("| | wall, s | CPU, s | peak memory, GiB |\n|---|---|---|---|")
    for name, (wall, cpu, peak, _, _) in rows.items():
        label = f"{name} after a kill at {kept} answers" if name == "resumed" else name
        print(f"| {label} | {wall:.0f} | {cpu:.0f} | {peak:.1f} |")
    print(f"\nBoth found the same: {same}.\n\n```\n{rows['uninterrupted'][4]}\n```")


if __name__ == "__main__":
    main()
