"""A small ViT trained on scikit-learn's digits (1,797 real 8×8 images): real accuracy in about a minute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Digits:
    """Normalized images [n, 1, 8, 8] float32 and labels [n], in a fixed split."""

    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor

    def accuracy(self, model: Callable[..., Any]) -> float:
        """Share of the held-out images that `model` labels right."""
        right = 0
        with torch.no_grad():
            for i in range(0, len(self.test_images), 50):
                right += int((model(self.test_images[i : i + 50]).argmax(1) == self.test_labels[i : i + 50]).sum())
        return right / len(self.test_images)


def load_digits() -> Digits:
    """Every third image is held out."""
    from sklearn.datasets import load_digits as load

    data = load()
    images = torch.from_numpy(data.images.astype(np.float32))[:, None] / 8.0 - 1.0
    labels = torch.from_numpy(data.target.astype(np.int64))
    held_out = torch.arange(len(labels)) % 3 == 0
    return Digits(images[~held_out], labels[~held_out], images[held_out], labels[held_out])


class Attention(torch.nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = torch.nn.Linear(dim, 3 * dim)
        self.proj = torch.nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, dim = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).reshape(batch, tokens, dim))  # type: ignore[no-any-return]


class Block(torch.nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attn = torch.nn.LayerNorm(dim), Attention(dim, heads)
        self.norm2 = torch.nn.LayerNorm(dim)
        self.mlp = torch.nn.Sequential(torch.nn.Linear(dim, 4 * dim), torch.nn.GELU(), torch.nn.Linear(4 * dim, dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class DigitsViT(torch.nn.Module):
    """ViT of 2×2 patches: 16 tokens and a class token, 4 blocks of width 64, 2 heads. [n, 1, 8, 8] → [n, 10]."""

    def __init__(self, dim: int = 64, depth: int = 4, heads: int = 2) -> None:
        super().__init__()
        self.patch = torch.nn.Conv2d(1, dim, 2, 2)
        self.token = torch.nn.Parameter(torch.zeros(1, 1, dim))
        self.position = torch.nn.Parameter(torch.randn(1, 17, dim) * 0.02)
        self.blocks = torch.nn.Sequential(*(Block(dim, heads) for _ in range(depth)))
        self.norm = torch.nn.LayerNorm(dim)
        self.head = torch.nn.Linear(dim, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), tokens], 1) + self.position
        return self.head(self.norm(self.blocks(tokens))[:, 0])  # type: ignore[no-any-return]


def qkv_activations(model: DigitsViT, images: torch.Tensor) -> list[torch.Tensor]:
    """What each block's fused QKV gives for the images: [n, 17, 3·64] a block. Attention's own input, for its
    benchmarks."""
    kept: list[torch.Tensor] = []
    hooks = [block.attn.qkv.register_forward_hook(lambda _m, _i, out: kept.append(out)) for block in model.blocks]  # type: ignore[union-attr]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return kept


def train(digits: Digits, epochs: int = 25, seed: int = 0, progress: Callable[[str], None] | None = None) -> DigitsViT:
    """Trains from scratch with AdamW and a one-cycle schedule. Deterministic by seed."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the operators are tiny: threads would only wait for each other
    try:
        return _train(digits, epochs, seed, progress)
    finally:
        torch.set_num_threads(threads)


def _train(digits: Digits, epochs: int, seed: int, progress: Callable[[str], None] | None) -> DigitsViT:
    torch.manual_seed(seed)
    model = DigitsViT()
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    batch, count = 32, len(digits.train_images)
    steps = epochs * (count // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=steps)
    for epoch in range(epochs):
        order = torch.randperm(count, generator=generator)
        for i in range(count // batch):
            chosen = order[i * batch : (i + 1) * batch]
            loss = torch.nn.functional.cross_entropy(model(digits.train_images[chosen]), digits.train_labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        if progress is not None and epoch % 5 == 4:
            progress(f"epoch {epoch + 1} of {epochs}, loss {loss.item():.3f}")
    return model.eval()
