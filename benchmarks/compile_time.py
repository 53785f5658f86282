"""Compile time and memory of ViT-B/16 for orin, without calibration, at 12, 24 and 48 blocks; each in its own process.

    python benchmarks/compile_time.py > benchmarks/results/compile_time.txt
"""

from __future__ import annotations

import datetime
import platform
import resource
import subprocess
import sys
import time


def measure(depth: int) -> None:
    """Prints seconds and peak MB of one compilation; capture and engine included, imports not."""
    import timm

    import vitc

    model = timm.create_model("vit_base_patch16_224", depth=depth).eval()
    started = time.perf_counter()
    vitc.compile(model, "orin")
    seconds = time.perf_counter() - started
    print(f"{seconds:.1f} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f}")


def main() -> None:
    """The table."""
    import torch

    import vitc

    print(f"# {datetime.date.today()}, {platform.processor() or platform.machine()}, torch {torch.__version__}, vitc {vitc.__version__}")
    print(f"{'blocks':>6} {'seconds':>8} {'s/block':>8} {'peak MB':>8}")
    for depth in (12, 24, 48):
        out = subprocess.run([sys.executable, __file__, str(depth)], capture_output=True, text=True, check=True)
        seconds, peak = out.stdout.split()[-2:]
        print(f"{depth:>6} {seconds:>8} {float(seconds) / depth:>8.2f} {peak:>8}")


if __name__ == "__main__":
    measure(int(sys.argv[1])) if len(sys.argv) > 1 else main()
