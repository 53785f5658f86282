"""Compiles ViT-B/16 for this CPU and for Jetson AGX Orin, and a trained digits ViT, and prints one table."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import vitc
from vitc.compiler.compiled import CompiledModel
from vitc.demo.digits import load_digits, train
from vitc.frontend.torchvision_import import ensure_torchvision_imports

OUT = Path("out/demo")


def photographs(count: int = 16, size: int = 224) -> torch.Tensor:
    """Crops of real photographs that scikit-learn and scikit-image carry, normalized as timm's ViTs want them: mean and
    standard deviation 0.5. [count, 3, size, size] float32."""
    from skimage import data
    from skimage.transform import resize
    from sklearn.datasets import load_sample_images

    photos = [*load_sample_images().images, data.astronaut(), data.coffee(), data.chelsea()]  # type: ignore[no-untyped-call]
    generator = np.random.default_rng(0)
    crops = []
    for i in range(count):
        photo = photos[i % len(photos)]
        side = int(min(photo.shape[:2]) * generator.uniform(0.6, 1.0))
        top = generator.integers(0, photo.shape[0] - side + 1)
        left = generator.integers(0, photo.shape[1] - side + 1)
        crop = resize(photo[top : top + side, left : left + side], (size, size), anti_aliasing=True)  # type: ignore[no-untyped-call]
        crops.append(torch.from_numpy((crop.astype(np.float32) - 0.5) / 0.5).permute(2, 0, 1))
    return torch.stack(crops).contiguous()


def milliseconds(call: Callable[[], Any], other: Callable[[], Any], rounds: int = 5) -> tuple[float, float]:
    """Best time of each of two calls, taken in turn."""
    best = [float("inf"), float("inf")]
    for i in range(rounds + 1):
        for j, candidate in enumerate((call, other)):
            started = time.perf_counter()
            candidate()
            if i:
                best[j] = min(best[j], 1e3 * (time.perf_counter() - started))
    return best[0], best[1]


def agreement(model: Callable[..., Any], compiled: Callable[..., Any], images: torch.Tensor) -> str:
    """Share of images with the same top class, and the mean cosine of the outputs."""
    with torch.no_grad():
        want, got = model(images), compiled(images)
    same = float((want.argmax(1) == got.argmax(1)).float().mean())
    cosine = float(torch.nn.functional.cosine_similarity(want, got, dim=1).mean())
    return f"{same:.0%}, cos {cosine:.4f}"


def row(name: str, model: torch.nn.Module, compiled: CompiledModel, images: torch.Tensor, accuracy: str) -> list[str]:
    report = compiled.report
    one = images[:1]
    with torch.no_grad():
        eager, fast = milliseconds(lambda: model(one), lambda: compiled(one))
    return [
        name,
        f"{report.weight_bytes_before / 1e6:.1f} → {report.weight_bytes_after / 1e6:.1f} MB",
        f"{report.flops / 1e9:.2f} G",
        f"{eager:.1f} → {fast:.1f} ms",
        agreement(model, compiled, images),
        accuracy,
    ]


def main() -> None:
    """Runs everything; under five minutes on two cores."""
    ensure_torchvision_imports()  # timm needs it
    import timm

    console = Console(stderr=True)
    torch.manual_seed(0)
    table = Table("model → target", "weights", "FLOP", "original → compiled, here", "agreement", "accuracy")

    digits = load_digits()
    console.print("training a ViT on handwritten digits …")
    small = train(digits, progress=console.print)
    before = digits.accuracy(small)
    compiled = vitc.compile(
        small, "cpu", example_inputs=digits.train_images[:2], calibration=digits.train_images[:256], quantize="int8"
    )
    score = f"{before:.2%} → {digits.accuracy(compiled):.2%}"
    table.add_row(*row("digits ViT → cpu INT8", small, compiled, digits.test_images[:50], score))

    OUT.mkdir(parents=True, exist_ok=True)
    images = photographs()
    model = timm.create_model("vit_base_patch16_224", pretrained=False).eval()
    for target in ("cpu", "orin"):
        console.print(f"compiling ViT-B/16 for {target}, calibrated on {len(images)} photographs …")
        compiled = vitc.compile(
            model, target, calibration=images[:8], progress=True,
            dump=OUT / f"dumps-{target}", explore=OUT / f"vit_b_16-{target}.html",
        )  # fmt: skip
        console.print(f"saving the bundle for {target} …")
        compiled.save(OUT / f"vit_b_16-{target}")
        table.add_row(*row(f"ViT-B/16 → {target}", model, compiled, images[8:], "– (random weights)"))
        for decision in compiled.report.decisions:
            console.print(f"  {decision}")
        if compiled.report.predicted_ms is not None:
            console.print(
                f"  predicted on {target}: {compiled.report.predicted_ms:.2f} ms (cost model, never measured)"
            )

    Console(width=150).print(table)
    print(
        "Times are of this machine, batch 1; the orin model runs here on the CPU engine, its own engine is built on the"
        " device."
    )
    print(f"bundles  {OUT}/vit_b_16-cpu  {OUT}/vit_b_16-orin")
    print(f"dumps    {OUT}/dumps-cpu  {OUT}/dumps-orin")
    print(f"look     {OUT}/vit_b_16-cpu.html  {OUT}/vit_b_16-orin.html")


if __name__ == "__main__":
    main()
