"""Predicted against measured latency of timm models on this machine's CPU.

    python benchmarks/cost_model_cpu.py prepare FOLDER [MODEL …]   # compile: the ONNX files and what their operations
    cost python benchmarks/cost_model_cpu.py time FOLDER                # measure the machine, then each model; print
    the table

Random weights, batch 1, all cores. Timed by CPU time over threads, so that other processes on the machine do not count;
the shortest of the runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib.metadata
import json
import platform
import sys
from pathlib import Path
from statistics import median

import numpy as np
from machine import processor

MODELS = (
    "vit_tiny_patch16_224", "vit_small_patch32_224", "vit_small_patch16_224", "vit_base_patch32_224",
    "vit_base_patch16_224",
    "vit_small_patch16_384", "deit_tiny_distilled_patch16_224", "deit3_small_patch16_224", "deit3_medium_patch16_224",
    "eva02_tiny_patch14_224", "eva02_small_patch14_224", "swin_tiny_patch4_window7_224",
    "swin_small_patch4_window7_224",
    "beit_base_patch16_224", "flexivit_small", "vit_relpos_small_patch16_224",
)  # fmt: skip
INT8_MODELS = (
    "vit_tiny_patch16_224", "vit_small_patch32_224", "vit_small_patch16_224", "vit_base_patch32_224",
    "deit_tiny_distilled_patch16_224",
)  # fmt: skip


def prepare(folder: Path, names: tuple[str, ...]) -> None:
    from vitc.frontend.torchvision_import import ensure_torchvision_imports

    ensure_torchvision_imports()
    import timm
    import torch

    import vitc
    from vitc.cost.count import op_costs

    folder.mkdir(parents=True, exist_ok=True)
    wanted = [(name, "fp32") for name in names] + [(name, "int8") for name in names if name in INT8_MODELS]
    for name, dtype in wanted:
        if (folder / f"{name}.{dtype}.json").exists():
            continue
        torch.manual_seed(0)
        model = timm.create_model(name, pretrained=False).eval()
        size = model.pretrained_cfg["input_size"][-1]
        images = torch.randn(2, 3, size, size)
        plan = vitc.plan(model, "cpu", example_inputs=images, calibration=images if dtype == "int8" else None)
        plan.onnx.save(folder / f"{name}.{dtype}.onnx")
        records = [dataclasses.asdict(record) for record in op_costs(plan.program)]
        (folder / f"{name}.{dtype}.json").write_text(json.dumps({"shape": [1, 3, size, size], "records": records}))
        print(name, dtype, flush=True)


def run(folder: Path) -> None:
    from vitc import targets
    from vitc.cost import OpCost, predict
    from vitc.lowering.cpu import open_engine
    from vitc.lowering.cpu.rates import THREADS, measured_here, shortest

    target = measured_here(targets.load("cpu"))
    files = sorted(folder.glob("*.json"))
    if not files:
        sys.exit(f"no models in {folder}; make some with: cost_model_cpu.py prepare {folder}")
    best: dict[str, float] = {}
    predicted: dict[str, float] = {}
    for path in files:
        data = json.loads(path.read_text())
        records = [OpCost(**{**r, "shape": r["shape"] and tuple(r["shape"])}) for r in data["records"]]
        predicted[path.stem] = predict(records, target).ms
        engine = open_engine(path.with_suffix(".onnx"), threads=THREADS)
        feeds = {engine.inputs[0].name: np.random.default_rng(0).standard_normal(data["shape"]).astype(np.float32)}
        best[path.stem] = 1e3 * min(shortest(lambda e=engine, f=feeds: e.run(f), THREADS) for _ in range(2))  # type: ignore[misc]
        engine.close()
    print(table(best, predicted, target.fp32_tflops or 0, target.int8_tops or 0, target.memory_gbs or 0))


def table(best: dict[str, float], predicted: dict[str, float], fp32: float, int8: float, memory: float) -> str:
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("openvino", "onnxruntime", "timm", "vitc")
    )
    lines = [
        (
            f"`python benchmarks/cost_model_cpu.py`, {datetime.date.today()}; {processor()}; {versions}; Python "
            f"{platform.python_version()}."
        ),
        "",
        f"Measured before the run: {fp32:.3f} TFLOPS FP32, {int8:.3f} TOPS INT8, {memory:.1f} GB/s.",
        "",
        "| model | precision | measured ms | predicted ms | error |",
        "|---|---|---|---|---|",
    ]
    for key in best:
        name, dtype = key.rsplit(".", 1)
        error = predicted[key] / best[key] - 1
        lines.append(f"| {name} | {dtype} | {best[key]:.1f} | {predicted[key]:.1f} | {error:+.0%} |")
    lines.append("")
    for dtype in ("fp32", "int8"):
        keys = [key for key in best if key.endswith(dtype)]
        if len(keys) < 3:
            continue
        errors = [abs(predicted[key] / best[key] - 1) for key in keys]
        rank = spearman([best[key] for key in keys], [predicted[key] for key in keys])
        lines.append(
            f"{dtype}, {len(keys)} models: Spearman rank correlation {rank:.3f}, median error {median(errors):.0%}, "
            f"largest {max(errors):.0%}."
        )
    return "\n".join(lines)


def spearman(a: list[float], b: list[float]) -> float:
    ranks = [np.argsort(np.argsort(values)) for values in (a, b)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("prepare", "time"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", nargs="*")
    arguments = parser.parse_args()
    if arguments.step == "prepare":
        prepare(arguments.folder, tuple(arguments.models) or MODELS)
    else:
        run(arguments.folder)


if __name__ == "__main__":
    main()
