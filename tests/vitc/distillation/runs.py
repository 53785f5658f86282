"""A small distillation with everything random in it, as a function and as a script that is killed on the way:

python runs.py CHECKPOINT OUTPUT [BATCH]      drawing batch number BATCH, the process kills itself
torchrun … runs.py --together OUTPUT
"""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from vitc.demo.digits import DigitsViT
from vitc.distillation import DistillConfig, DistillResult, Features, Logits, distill


class Noisy(torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """48 images, changed at random by torch, numpy and random. Kills its process at the `deadly`-th one."""

    def __init__(self, deadly: int | None = None) -> None:
        generator = torch.Generator().manual_seed(1)
        self.images = torch.randn(48, 1, 8, 8, generator=generator)
        self.left = deadly

    def __len__(self) -> int:
        return 48

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        noise = 0.1 * torch.randn(1, 8, 8) + 0.1 * float(np.random.rand()) + 0.1 * random.random()
        return self.images[index] + noise, torch.tensor(index % 10)


def models() -> tuple[torch.nn.Module, torch.nn.Module]:
    """A student with dropout, and a wider teacher."""
    torch.manual_seed(0)
    student, teacher = DigitsViT(16, 2), DigitsViT(24, 3)
    student.blocks[1].mlp.append(torch.nn.Dropout(0.2))
    return student, teacher


def run(checkpoint: Path | None, deadly: int | None = None) -> DistillResult:
    """Two stages of 6 and 12 batches of 8, two batches a step."""
    student, teacher = models()
    loader = torch.utils.data.DataLoader(Noisy(deadly), batch_size=8, shuffle=True)
    images = Noisy().images
    config = DistillConfig(accumulate=2, ema=0.8, checkpoint_every=2, seed=3)

    def evaluate(model: torch.nn.Module) -> float:
        return -float((model(images) - teacher(images)).square().mean())

    stages = (Features(epochs=1, rate=3e-3), Logits(epochs=2, rate=3e-3))
    return distill(student, teacher, loader, stages=stages, config=config, evaluate=evaluate, checkpoint=checkpoint)


def sgd(named: list[tuple[str, torch.nn.Parameter]], rate: float) -> torch.optim.Optimizer:
    """With Adam, gradients that are zero but for rounding would part the runs."""
    return torch.optim.SGD([p for _, p in named], lr=rate)


def together(accumulate: int) -> DistillResult:
    """The same batches a step, in two processes with accumulate = 1 as in one with 2."""
    torch.manual_seed(0)
    student, teacher = DigitsViT(16, 2), DigitsViT(24, 2)
    data = Noisy().images, torch.arange(48) % 10
    config = DistillConfig(batch_size=6, accumulate=accumulate, ema=0.8)
    stages = (Features(rate=0.05), Logits(epochs=2, rate=0.1))
    return distill(student, teacher, data, stages=stages, config=config, optimizer=sgd)


def main() -> None:
    torch.set_num_threads(1)
    if sys.argv[1] == "--together":
        student = together(accumulate=1).student
        if os.environ["RANK"] == "0":
            save_file(student.state_dict(), sys.argv[2])
        return
    student = run(Path(sys.argv[1]), int(sys.argv[3]) if len(sys.argv) > 3 else None).student
    save_file(student.state_dict(), sys.argv[2])


if __name__ == "__main__":
    main()
