"""The first and the last layer in INT8, and training with INT8 in view (QAT): what int8_accuracy.py leaves at its
default.

The last table is a model that INT8 does harm to: the digits model with three columns of each block's weights 100 times
larger, and what they read smaller, the same function. Without smoothing, which would take them back, INT8 rounds all
other columns to little.

    pip install -e '.[demo]'
    python benchmarks/int8_edges.py > benchmarks/results/int8_edges.md

The same models, calibration images and columns as there; target orin. "saves" is the time that this row's INT8 saves
beside the one of the default, predicted by the cost model: for orin, and for this machine's CPU from rates measured
now.
"""

from __future__ import annotations

import argparse
import copy
from typing import Any

import tasks
import torch
from int8_accuracy import by_vitc, compared
from machine import stamp

import vitc

DEFAULT = "smooth-activations,quantize-int8"
ROWS = {
    "default: both in floating point": DEFAULT,
    "patch embedding too": f"{DEFAULT}{{convolutions=true}}",
    "classifier too": f"{DEFAULT}{{head=true}}",
    "both": f"{DEFAULT}{{convolutions=true,head=true}}",
    "default, trained with INT8 in view": DEFAULT.replace(",", ",tune-int8,"),
    "default, trained, steps too (LSQ)": DEFAULT.replace(",", ",tune-int8{learn_steps=true},"),
}
PLANTED = {
    "INT8, without smoothing": "quantize-int8",
    "trained with INT8 in view": "tune-int8,quantize-int8",
    "trained, steps too (LSQ)": "tune-int8{learn_steps=true},quantize-int8",
    "INT8, with smoothing": DEFAULT,
}


@torch.no_grad()
def plant_columns(model: Any) -> Any:
    model = copy.deepcopy(model)
    for block in model.blocks:
        for norm, linear in ((block.norm1, block.attn.qkv), (block.norm2, next(block.mlp.children()))):
            norm.weight[:3] /= 100
            norm.bias[:3] /= 100
            linear.weight[:, :3] *= 100
    return model


def milliseconds(model: torch.nn.Module, images: torch.Tensor, target: str, options: str) -> float:
    """Predicted, of the plan with attention as the target's engine takes it."""
    quantize = f"quantize-int8{options}"
    predicted = vitc.plan(
        model, target, example_inputs=images[:2], calibration=images[:16], quantize=quantize
    ).report.predicted_ms
    assert predicted is not None
    return predicted


def main() -> None:
    parser = argparse.ArgumentParser(description="first and last layer in INT8, and QAT")
    parser.add_argument("--images", type=int, default=128, help="calibration images")
    parser.add_argument("--only", nargs="+", default=["digits", "figures"], choices=list(tasks.TASKS))
    args = parser.parse_args()
    print("# First and last layer in INT8, and QAT\n")
    print(
        f"{stamp('int8_edges.py', 'torch')} {args.images} calibration images; QAT: 3 passes over three of four of them,"
        " no labels."
    )
    for name in args.only:
        task = tasks.load(name)
        images = task.train[0][: args.images]
        print(f"\n## {name}, FP32 {task.metric(task.model):.2%}\n")
        print("| | SQNR, dB | agreement | score | orin saves, µs | this CPU saves, µs |\n|---|---|---|---|---|---|")
        base: dict[str, float] = {}
        for label, pipeline in ROWS.items():
            sqnr, same, score = compared(by_vitc("orin", pipeline)(task.model, images), task)
            cells = []
            for target in ("orin", "cpu"):
                if "tune" in pipeline:
                    cells.append("–")
                    continue
                ms = milliseconds(task.model, images, target, pipeline.removeprefix(DEFAULT))
                cells.append(f"{1e3 * (base.setdefault(target, ms) - ms):.1f} of {1e3 * base[target]:.0f}")
            print(f"| {label} | {sqnr:.1f} | {same:.2%} | {score:.2%} | {' | '.join(cells)} |", flush=True)
    task = tasks.load("digits")
    images = task.train[0][: args.images]
    print("\n## digits, large columns planted in the weights\n")
    print("| | SQNR, dB | agreement | score |\n|---|---|---|---|")
    for label, pipeline in PLANTED.items():
        sqnr, same, score = compared(by_vitc("orin", pipeline)(plant_columns(task.model), images), task)
        print(f"| {label} | {sqnr:.1f} | {same:.2%} | {score:.2%} |", flush=True)


if __name__ == "__main__":
    main()
