"""Compile time and memory of ViT-B/16 for orin, without calibration, at 12, 24 and 48 blocks; each in its own process.

python benchmarks/compile_time.py > benchmarks/results/compile_time.md
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time

from machine import stamp


def measure(depth: int) -> None:
    """Prints seconds and peak MB of one compilation; capture and engine included, imports not."""
    from vitc.frontend.torchvision_import import ensure_torchvision_imports

    ensure_torchvision_imports()
    import timm

    import vitc

    model = timm.create_model("vit_base_patch16_224", depth=depth).eval()
    started = time.perf_counter()
    vitc.compile(model, "orin")
    seconds = time.perf_counter() - started
    print(f"{seconds:.1f} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f}")


def main() -> None:
    """The table."""
    rows = []
    for depth in (12, 24, 48):
        out = subprocess.run([sys.executable, __file__, str(depth)], stdout=subprocess.PIPE, text=True, check=True)
        seconds, peak = out.stdout.split()[-2:]
        rows.append(f"| {depth} | {seconds} | {float(seconds) / depth:.2f} | {peak} |")
    print("# Compiling ViT-B/16 for orin, without calibration\n")
    print(f"{stamp('compile_time.py', 'torch', 'onnx', 'openvino')}\n")
    print("| blocks | seconds | seconds a block | peak MB |\n|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    measure(int(sys.argv[1])) if len(sys.argv) > 1 else main()
