"""The trained models that the benchmarks share: three tasks, each a ViT trained here from a seed and kept in .cache/.

    pip install -e '.[demo]'
    python benchmarks/tasks.py              trains what is missing, prints the table below

    from tasks import load
    model, train, test, metric = load("figures", seed=0)

    digits     scikit-learn's handwritten digits, 8×8 grey, 10 classes; vitc.demo's ViT (width 64, depth 4)
    figures    12 kinds of drawn figures, 64×64 RGB (figures.py); timm's VisionTransformer, width 192, depth 6, patch 8
    segments   6 classes a pixel on the same drawings, several an image; the same ViT with a dense head, mean IoU

The data are the same for every seed: the seed is that of the weights and of the order of the batches. Training is in
bf16 by autocast (half the time where the processor has it), the weights are fp32.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import figures
import torch
from safetensors.torch import load_file, save_file

from vitc.demo import digits
from vitc.frontend.torchvision_import import ensure_torchvision_imports

ensure_torchvision_imports()  # timm needs it

CACHE = Path(__file__).parents[1] / ".cache" / "tasks"
Data = tuple[torch.Tensor, torch.Tensor]


class Task(NamedTuple):
    """A trained model in eval mode, (images, labels) to train and to test on, and the score on the test split of
    anything that maps images to what the model returns: accuracy or mean IoU, 0 to 1."""

    model: torch.nn.Module
    train: Data
    test: Data
    metric: Callable[[Callable[[torch.Tensor], Any]], float]


def vit(width: int = 192, depth: int = 6, classes: int = len(figures.KINDS)) -> torch.nn.Module:
    """timm's ViT for 64×64 images in patches of 8, heads of 64 channels, averaged tokens."""
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(  # type: ignore[no-any-return]
        img_size=64, patch_size=8, embed_dim=width, depth=depth, num_heads=width // 64, num_classes=classes,
        class_token=False, global_pool="avg",
    )  # fmt: skip


class Segmenter(torch.nn.Module):
    """A ViT whose every token gives the classes of its own 8×8 pixels. [n, 3, 64, 64] → [n, classes, 64, 64]."""

    def __init__(self, classes: int = 6) -> None:
        super().__init__()
        self.backbone = vit(classes=0)
        self.head = torch.nn.Linear(192, classes * 64)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.head(self.backbone.forward_features(images))  # type: ignore[operator]
        grid = tokens.transpose(1, 2).reshape(images.shape[0], -1, 8, 8)
        return torch.nn.functional.pixel_shuffle(grid, 8)


def fit(
    model: torch.nn.Module, train: Data, epochs: float, seed: int = 0, rate: float = 1.0, quiet: bool = True
) -> torch.nn.Module:
    """Trains by cross entropy, in place; returns the model in eval mode. `rate` scales both learning rates: below 1 to
    tune a trained model.

    Muon (Jordan et al. 2024) on the blocks' matrices and AdamW on the rest: in these short runs a ViT learns about
    twice as fast as by AdamW alone.
    """
    images, labels = train
    inner = [p for name, p in model.named_parameters() if p.ndim == 2 and "blocks" in name]
    outer = [p for name, p in model.named_parameters() if not (p.ndim == 2 and "blocks" in name)]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(inner, lr=0.02 * rate, weight_decay=0.05),
        torch.optim.AdamW(outer, lr=2e-3 * rate, weight_decay=0.05),
    ]
    batch = 32
    steps = int(epochs * (len(images) // batch))
    schedules = [
        torch.optim.lr_scheduler.OneCycleLR(o, o.param_groups[0]["lr"], steps, pct_start=0.15, cycle_momentum=False)
        for o in optimizers
    ]
    generator = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.int64)
    model.train()
    for step in range(steps):
        if len(order) < batch:
            order = torch.randperm(len(images), generator=generator)
        chosen, order = order[:batch], order[batch:]
        with torch.autocast("cpu", torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(model(images[chosen]).float(), labels[chosen])
        model.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for o, schedule in zip(optimizers, schedules, strict=True):
            o.step()
            schedule.step()
        if not quiet and step % 50 == 49:
            print(f"step {step + 1} of {steps}, loss {loss.item():.3f}", file=sys.stderr)
    return model.eval()


def accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    return float((logits.argmax(1) == labels).float().mean())


def mean_iou(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Intersection over union of all pixels together, averaged over the classes."""
    classes, found = logits.shape[1], logits.argmax(1)
    table = (
        torch.bincount((labels * classes + found).flatten(), minlength=classes**2).reshape(classes, classes).double()
    )
    return float((table.diag() / (table.sum(0) + table.sum(1) - table.diag())).mean())


def _score(
    test: Data, of: Callable[[torch.Tensor, torch.Tensor], float]
) -> Callable[[Callable[[torch.Tensor], Any]], float]:
    def metric(model: Callable[[torch.Tensor], Any]) -> float:
        with torch.no_grad():
            return of(torch.cat([model(images) for images in test[0].split(50)]), test[1])

    return metric


@lru_cache(maxsize=3)
def _data(name: str) -> tuple[Data, Data]:
    if name == "digits":
        held = digits.load_digits()
        return (held.train_images, held.train_labels), (held.test_images, held.test_labels)
    draw = figures.classified if name == "figures" else figures.segmented
    (train, train_labels), (test, test_labels) = draw(8000, 1), draw(1500, 2)
    return (torch.from_numpy(train), torch.from_numpy(train_labels)), (
        torch.from_numpy(test),
        torch.from_numpy(test_labels),
    )


TASKS: dict[str, tuple[Callable[[], torch.nn.Module], float]] = {
    "digits": (digits.DigitsViT, 25),
    "figures": (vit, 8),
    "segments": (Segmenter, 6),
}


def key(name: str) -> str:
    """A hash of the source of what makes the task's data and trains its model."""
    if name == "digits":
        made_by: tuple[Any, ...] = (
            digits.load_digits,
            digits.Attention,
            digits.Block,
            digits.DigitsViT,
            digits.train,
            digits._train,
        )
    else:
        made_by = (figures, vit, fit, _data, *([Segmenter] if name == "segments" else []))
    source = "".join(inspect.getsource(item) for item in made_by)
    return hashlib.sha256(f"{source}{TASKS[name][1]}".encode()).hexdigest()[:12]


def load(name: str, seed: int = 0, quiet: bool = True) -> Task:
    """The task of that name, its model trained with that seed, now or at an earlier call: the weights are kept in
    .cache/ under a hash of the code that made them."""
    build, epochs = TASKS[name]

    def train(model: torch.nn.Module) -> torch.nn.Module:
        if name == "digits":
            return digits.train(digits.load_digits(), seed=seed)
        return fit(model, _data(name)[0], epochs, seed, quiet=quiet)

    torch.manual_seed(seed)
    return problem(name, trained(build(), CACHE / f"{name}-{seed}-{key(name)}.safetensors", train))


def trained(model: torch.nn.Module, path: Path, train: Callable[[torch.nn.Module], torch.nn.Module]) -> torch.nn.Module:
    """The model in eval mode with the weights in the file; if there is none, what `train` makes of it, kept there."""
    if path.exists():
        model.load_state_dict(load_file(path))
        return model.eval()
    model = train(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, unfinished)
    unfinished.rename(path)
    return model


def problem(name: str, model: torch.nn.Module) -> Task:
    """The task of that name with a model trained elsewhere."""
    train, test = _data(name)
    return Task(model, train, test, _score(test, mean_iou if name == "segments" else accuracy))


def main() -> None:
    parser = argparse.ArgumentParser(description="trains the benchmarks' models and prints their scores")
    parser.add_argument("--only", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    args = parser.parse_args()
    print("| task | seed | parameters | test score | seconds |\n|---|---|---|---|---|")
    for name in args.only:
        for seed in args.seeds:
            began = time.perf_counter()
            model, _, _, metric = load(name, seed, quiet=False)
            count, score = sum(p.numel() for p in model.parameters()), metric(model)
            print(f"| {name} | {seed} | {count:,} | {score:.4f} | {time.perf_counter() - began:.0f} |", flush=True)


if __name__ == "__main__":
    main()
