"""INT8 on a CPU: vitc against OpenVINO + NNCF and ONNX Runtime, and against what the processor can do at most.

    pip install -e '.[demo,bench]'
    python benchmarks/int8_speed.py                              ViT-B/16 at 224 and 384, batch 1 and 8
    python benchmarks/int8_speed.py --models vit_small_patch16_224 --output benchmarks/results/int8_speed.md

As benchmarks/cpu.py: a process for each contender, all in turn, CPU time and wall time, the error of the logits
relative to eager PyTorch. Random weights; photographs, half of them for calibration, half for the error. The roofline
is measured in the same run: `vpdpbusd` on registers, one thread a core, the best of several tries between the rounds.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from pathlib import Path
from statistics import median

import cpu
import numpy as np

from vitc.lowering.cpu.native.library import load, unavailable

REFERENCE = "torch eager fp32"
PEERS = tuple(label for label in cpu.CONTENDERS if "int8" in label and not label.startswith("vitc"))
VITC = "vitc int8"


def roofline(threads: int) -> float:
    """Operations a second of INT8 products on registers, all threads at once; 0 where the kernels can't be built."""
    if unavailable() is not None:
        return 0.0
    library, rounds = load(), 4_000_000
    done = [0.0] * threads

    def work(i: int) -> None:
        done[i] = library.vitc_peak(rounds)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
    began = time.process_time()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(done) / (time.process_time() - began) * threads


def operations(name: str) -> float:
    """Multiplications and additions of a plain ViT's products, an image."""
    import timm

    model = timm.create_model(name)
    patch, width, tokens = model.patch_embed.patch_size[0], model.embed_dim, model.pos_embed.shape[1]
    hidden = model.blocks[0].mlp.fc1.out_features
    block = tokens * width * (4 * width + 2 * hidden) + 2 * tokens**2 * width
    return 2.0 * (model.patch_embed.num_patches * 3 * patch**2 * width + len(model.blocks) * block)


def measure(name: str, batches: list[int], rounds: int, threads: int, images: int) -> str:
    """One model's table."""
    workers, missing = [], []
    for label in (REFERENCE, *PEERS, VITC):
        try:
            workers.append(cpu.Worker(label, name, threads, images))
        except RuntimeError as error:
            if label in (REFERENCE, VITC):
                raise
            print(error, file=sys.stderr)
            missing.append(label)
            continue
        print(f"{name}, {label}: ready after {workers[-1].seconds:.0f} s", file=sys.stderr)
    times: dict[tuple[str, int], list[dict[str, float]]] = {(w.label, b): [] for w in workers for b in batches}
    peak = 0.0
    for turn in range(rounds):
        for batch in batches:
            for worker in workers[:: 1 if turn % 2 == 0 else -1]:
                times[worker.label, batch].append(worker.once(batch))
        peak = max(peak, roofline(threads))
        print(f"{name}: round {turn + 1} of {rounds}", file=sys.stderr)
    for worker in workers:
        worker.close()

    def milliseconds(label: str, batch: int, what: str) -> float:
        values = [t[what] for t in times[label, batch]]
        return 1e3 * (median(values) / threads if what == "cpu" else min(values)) / batch

    work = operations(name)
    error = {w.label: np.linalg.norm(w.logits - workers[0].logits) / np.linalg.norm(workers[0].logits) for w in workers}
    titles = [f"b{b}: {what}" for b in batches for what in ("CPU", "wall", "of roofline")]
    lines = ["| contender | " + " | ".join(titles) + " | rel | top-1 |", "|---" * (len(titles) + 3) + "|"]
    for worker in workers:
        cells = [worker.label]
        for batch in batches:
            own = milliseconds(worker.label, batch, "cpu")
            share = f"{work / own * 1e3 / peak:.0%}" if peak and "int8" in worker.label else "–"
            cells += [f"{own:.1f}", f"{milliseconds(worker.label, batch, 'wall'):.1f}", share]
        same = (workers[0].logits.argmax(1) == worker.logits.argmax(1)).mean()
        lines.append("| " + " | ".join([*cells, f"{error[worker.label]:.4f}", f"{same:.2f}"]) + " |")
    text = (
        f"## {name}\n\n{work / 1e9:.1f} GOP an image; roofline {peak / 1e9:.0f} GOP/s:"
        f" {1e3 * work / peak if peak else 0:.1f} ms.\n\n"
    )
    text += "\n".join(lines) + "\n\n"
    peers = [w.label for w in workers[1:-1]]
    for batch in batches:
        for what in ("cpu", "wall"):
            best = min(peers, key=lambda label: milliseconds(label, batch, what))
            ratio = milliseconds(best, batch, what) / milliseconds(VITC, batch, what)
            text += f"- batch {batch}, {what} time: vitc is {ratio:.2f}× the fastest peer ({best}).\n"
    least = min(peers, key=lambda label: error[label])
    text += f"- error: vitc {error[VITC]:.4f}, the best peer {error[least]:.4f} ({least}).\n"
    return text + (f"\nLeft out, because they failed here: {', '.join(missing)}.\n" if missing else "")


def main() -> None:
    parser = argparse.ArgumentParser(description="INT8 on a CPU: vitc, its peers and the roofline")
    parser.add_argument(
        "--models", nargs="+", default=["vit_base_patch16_224", "vit_base_patch16_384"], help="plain ViTs of timm"
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--images", type=int, default=cpu.IMAGES, help="photographs: half calibrate, half are compared")
    parser.add_argument("--output", type=Path, help="a file for the tables, besides the terminal")
    args = parser.parse_args()
    cpu.ensure_torchvision_imports()
    tables = [measure(name, args.batch, args.rounds, args.threads, args.images) for name in args.models]
    text = "\n\n".join([cpu.header("INT8", "int8_speed.py", args.threads, args.rounds, args.images), *tables])
    print(text)
    if args.output:
        args.output.write_text(text)


if __name__ == "__main__":
    main()
