"""Hours of calls: `python benchmarks/soak.py [--minutes 60] [--threads 4] [--engine onnxruntime …]`.

A small ViT as CompiledModel and as Runner, called from several threads with mixed batches, and a bundle file loaded and
closed again and again; each for its share of the time. One JSON line each: memory and its slope over the second half
of the time, descriptors and threads that are left when the callers are gone, the median latency of the last tenth over
that of the middle one. Answers are compared with the first ones, bit for bit. Exit code 1: something grew or differed.

What counts as growth: more than 20 MB an hour and 20 MB in all; a descriptor or a thread more; in runs of more than
five minutes a latency that doubled (other programs on the machine make it swing).
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import vitc
from vitc.demo.digits import DigitsViT

BATCHES = (1, 2, 5, 8)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--engine", nargs="+", default=["onnxruntime", "openvino"])
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    compiled = vitc.compile(DigitsViT(dim=64, depth=2).eval(), "cpu", example_inputs=torch.randn(2, 1, 8, 8))
    bad = False
    with tempfile.TemporaryDirectory() as base:
        path = Path(base, "digits.vitc")
        compiled.save(path, "file")
        subjects: list[tuple[str, Callable[[np.ndarray[Any, Any]], Any]]] = [("CompiledModel", compiled)]
        for engine in options.engine:
            subjects.append((f"Runner, {engine}", vitc.load(path, engine, threads=1)))
        subjects.append(("load and close", _reload(path, options.engine[0])))
        for name, call in subjects:
            row = soak(call, options.minutes * 60 / len(subjects), options.threads)
            bad |= bool(row["problems"])
            print(json.dumps({"subject": name, **row}), flush=True)
    return 1 if bad else 0


def _reload(path: Path, engine: str) -> Callable[[np.ndarray[Any, Any]], Any]:
    def call(images: np.ndarray[Any, Any]) -> Any:
        with vitc.load(path, engine, threads=1) as runner:
            return runner(images)

    return call


def soak(call: Callable[[np.ndarray[Any, Any]], Any], seconds: float, threads: int) -> dict[str, Any]:
    """Calls from threads until the time is over; what was measured meanwhile."""
    rng = np.random.default_rng(0)
    images = {n: rng.standard_normal((n, 1, 8, 8)).astype(np.float32) for n in BATCHES}
    wanted = {n: _bytes(call(x)) for n, x in images.items()}
    stop, lock = threading.Event(), threading.Lock()
    before = _status()
    times: list[float] = []
    differ: list[int] = []

    def worker(number: int) -> None:
        for i in range(number, 1 << 62):
            if stop.is_set():
                return
            n = BATCHES[i % len(BATCHES)]
            start = time.perf_counter()
            same = _bytes(call(images[n])) == wanted[n]
            with lock:
                times.append(time.perf_counter() - start)
                if not same:
                    differ.append(n)

    workers = [threading.Thread(target=worker, args=(i,)) for i in range(threads)]
    for thread in workers:
        thread.start()
    samples = list(_samples(seconds, times, lock))
    stop.set()
    for thread in workers:
        thread.join()
    return judged(samples, before, _status(), len(differ))


def _samples(seconds: float, times: list[float], lock: threading.Lock) -> Iterator[dict[str, float]]:
    began, step = time.monotonic(), min(10.0, seconds / 20)
    while time.monotonic() - began < seconds:
        time.sleep(step)
        with lock:
            taken = list(times)
            times.clear()
        yield {
            **_status(),
            "at": time.monotonic() - began,
            "calls": len(taken),
            "ms": 1e3 * statistics.median(taken) if taken else 0.0,
        }


def _status() -> dict[str, float]:
    gc.collect()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "mb": int(status["VmRSS"].split()[0]) / 1024,
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": int(status["Threads"]),
    }


def judged(
    samples: list[dict[str, float]], before: dict[str, float], after: dict[str, float], differ: int
) -> dict[str, Any]:
    half = samples[len(samples) // 2 :]
    hours, mb = np.array([s["at"] / 3600 for s in half]), np.array([s["mb"] for s in half])
    slope, grown = float(np.polyfit(hours, mb, 1)[0]), float(mb[-1] - mb[0])
    tenth = max(1, len(half) // 5)
    first, last = (statistics.median(s["ms"] for s in part) for part in (half[:tenth], half[-tenth:]))
    drift, minutes = last / first if first else 1.0, samples[-1]["at"] / 60
    more = {what: int(after[what] - before[what]) for what in ("descriptors", "threads")}
    problems = [f"{count} more {what}" for what, count in more.items() if count > 0]
    if slope > 20 and grown > 20:
        problems.append(f"memory grows by {slope:.0f} MB an hour")
    if minutes > 5 and drift > 2:
        problems.append(f"latency went from {first:.2f} to {last:.2f} ms")
    if differ:
        problems.append(f"{differ} answers differ")
    return {
        "minutes": round(minutes, 1),
        "calls": int(sum(s["calls"] for s in samples)),
        "mb": round(float(mb[-1]), 1),
        "mb_an_hour": round(slope, 1),
        "more_descriptors": more["descriptors"],
        "more_threads": more["threads"],
        "latency_drift": round(drift, 3),
        "problems": problems,
    }


def _bytes(answer: Any) -> bytes:
    if isinstance(answer, torch.Tensor):
        answer = answer.numpy()
    return np.ascontiguousarray(answer).tobytes()


if __name__ == "__main__":
    sys.exit(main())
