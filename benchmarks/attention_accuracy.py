"""What INT8 costs attention, without a GPU: the tables of docs/kernel.md and decision 0020.

    python benchmarks/attention_accuracy.py
    python benchmarks/attention_accuracy.py --activations acts.npz

1. How P should be rounded: the relative L1 error when only P is rounded, against FP64. `sharp` multiplies q, so that
   the softmax is peaked; `mean` shifts V by a vector of that size, as trained networks' values are.
2. The kernel's variants (its NumPy reference) on Gaussian data and on the activations of a ViT that is trained here, in
   about a minute, on scikit-learn's digits; scales by tensor and by head. Cosine, relative L1 and the worst head's
   against FP64 on the data before quantization, and relative L1 against exact attention on the same integers: the
   kernel's share.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from vitc.kernels import error_model, reference
from vitc.kernels.fields import AttentionFields, split_scales

Array: TypeAlias = npt.NDArray[Any]

HEADS, HEAD_DIM, KEY_ROWS = 4, 64, 64
WAYS = {
    "s8, running max, exact sum": (127, False, False),
    "s8, running max, rounded sum": (127, False, True),
    "u8, running max, rounded sum": (255, False, True),
    "u8, tile's max, exact sum": (255, True, False),
    "u8, tile's max, rounded sum": (255, True, True),
}
"""Steps of P, what P is relative to, and whether the denominator sums the rounded P."""


def error(tokens: int, sharp: float, mean: float, steps: int, own_peak: bool, rounded_sum: bool) -> float:
    rng = np.random.default_rng(1)
    q, k, v = (rng.normal(size=(HEADS, tokens, HEAD_DIM)) for _ in range(3))
    v = v + mean * rng.normal(size=(1, 1, HEAD_DIM))
    scores = sharp * (q @ k.swapaxes(-1, -2)) * HEAD_DIM**-0.5
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    true = weights @ v / weights.sum(-1, keepdims=True)

    peak = np.full((HEADS, tokens, 1), -np.inf)
    total, weighted = np.zeros_like(peak), np.zeros_like(v)
    for first in range(0, tokens, KEY_ROWS):
        tile = scores[..., first : first + KEY_ROWS]
        tile_peak = tile.max(-1, keepdims=True)
        new_peak = np.maximum(peak, tile_peak)
        reference = tile_peak if own_peak else new_peak
        p = np.exp(tile - reference)
        rounded = np.rint(p * steps) / steps
        decay, share = np.exp(peak - new_peak), np.exp(reference - new_peak)
        weighted = weighted * decay + rounded @ v[:, first : first + KEY_ROWS] * share
        total = total * decay + (rounded if rounded_sum else p).sum(-1, keepdims=True) * share
        peak = new_peak
    return float(np.abs(weighted / total - true).sum() / np.abs(true).sum())


VARIANTS = (
    ("INT8, P INT8, out INT8", "int8", True, True),
    ("INT8, P INT8, out FP16", "int8", True, False),
    ("INT8, P FP16, out FP16", "fp16", True, False),
    ("FP16", "fp16", False, False),
)
"""Name, precision of P, INT8 in, INT8 out."""


@dataclass(frozen=True)
class Line:
    """One variant's result against FP64; `own` is the kernel's share, against exact attention on the same integers."""

    name: str
    cosine: float
    loss: float
    worst_head: float
    own: float

    def cells(self) -> str:
        return f"{self.name} | {self.cosine:.5f} | {self.loss:.4f} | {self.worst_head:.4f} | {self.own:.4f}"


def variants(real: Array, by_head: bool = False) -> list[Line]:
    """Each variant on [B, N, 3, H, D] in FP64: one scale for q, one for k, one for v, or one for each head of each."""
    batch, tokens, _, heads, dim = real.shape
    q, k, v = real.transpose(2, 0, 3, 1, 4)
    scores = (q @ k.swapaxes(-1, -2)) * dim**-0.5
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    true = (weights @ v / weights.sum(-1, keepdims=True)).transpose(0, 2, 1, 3).reshape(batch, tokens, -1)
    largest = np.abs(real).max((0, 1, 4)) / 127  # [3, H]
    scales = largest if by_head else np.broadcast_to(largest.max(1, keepdims=True), largest.shape)
    integers = np.clip(np.rint(real / scales[:, :, None]), -128, 127).astype(np.int8)
    common, head_scales = split_scales(scales.ravel().tolist() if by_head else scales[:, 0].tolist())
    out_scale = float(np.abs(true).max() / 127)
    lines = []
    for name, pv, int8_in, int8_out in VARIANTS:
        if by_head and not int8_in:
            continue
        fields = AttentionFields(
            "packed", heads, dim, dim**-0.5, 0, 64, KEY_ROWS, pv, *(common if int8_in else (0.0,) * 3),
            out_scale if int8_out else 0.0, head_scales if int8_in else (1.0,),
        )  # fmt: skip
        inputs = [(integers if int8_in else real.astype(np.float16)).reshape(batch, tokens, -1)]
        unit = fields.out_scale or 1.0
        result = reference.attention(fields, inputs).astype(np.float64) * unit
        same_integers = error_model.exact(fields, inputs) * unit
        cosine = float((result * true).sum() / np.linalg.norm(result) / np.linalg.norm(true))
        loss, own = (float(np.abs(result - x).sum() / np.abs(x).sum()) for x in (true, same_integers))
        off, size = (np.abs(x).reshape(batch, tokens, heads, dim).sum((0, 1, 3)) for x in (result - true, true))
        lines.append(Line(name, cosine, loss, float((off / size).max()), own))
    return lines


def gaussian(tokens: int, dim: int) -> Array:
    return np.random.default_rng(0).normal(size=(2, tokens, 3, HEADS, dim))


def trained() -> list[Array]:
    """The fused QKV of each block of a ViT trained here on scikit-learn's digits, for 64 held-out images."""
    from vitc.demo.digits import load_digits, qkv_activations, train

    digits = load_digits()
    layers = qkv_activations(train(digits), digits.test_images[:64])
    return [x.double().numpy().reshape(64, 17, 3, 2, 32) for x in layers]


def activations(path: Path) -> Iterator[tuple[str, Array]]:
    """Name and [B, N, 3, H, D] of each array of the file."""
    with np.load(path) as file:
        heads = int(file["num_heads"])
        for name in file.files:
            if name != "num_heads":
                qkv = file[name].astype(np.float64)
                yield name, qkv.reshape(*qkv.shape[:2], 3, heads, -1)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--activations", type=Path, help="an .npz of a trained ViT's fused QKV outputs")
    options = parser.parse_args(arguments)
    print(f"NumPy {np.__version__}, {datetime.date.today()}\n")
    if options.activations is None:
        print("| sharp | mean of V | tokens | " + " | ".join(WAYS) + " |")
        print("|---" * (3 + len(WAYS)) + "|")
        for sharp, mean, tokens in itertools.product((1, 3), (0, 1), (197, 1025)):
            cells = [f"{error(tokens, sharp, mean, *way):.4f}" for way in WAYS.values()]
            print(f"| {sharp} | {mean} | {tokens} | " + " | ".join(cells) + " |")
    print("\n| data | scales | variant | cosine | relative L1 | worst head | the kernel's own |")
    print("|---|---|---|---|---|---|---|")
    if options.activations is not None:
        print_variants(activations(options.activations))
        return
    for tokens, dim in ((197, 64), (577, 64), (257, 80)):
        for line in variants(gaussian(tokens, dim)):
            print(f"| Gaussian, {tokens} × {dim} | tensor | {line.cells()} |")
    print_variants((f"digits ViT, block {block}", real) for block, real in enumerate(trained()))


def print_variants(layers: Iterator[tuple[str, Array]]) -> None:
    for (name, real), by_head in itertools.product(layers, (False, True)):
        for line in variants(real, by_head):
            print(f"| {name} | {'head' if by_head else 'tensor'} | {line.cells()} |")


if __name__ == "__main__":
    main()
