"""What INT8 costs attention, on Gaussian data and without a GPU: the tables of docs/kernel.md and decision 0020.

    python benchmarks/attention_accuracy.py

1. How P should be rounded: the relative L1 error when only P is rounded, against FP64. `sharp` multiplies q, so that the
   softmax is peaked; `mean` shifts V by a vector of that size, as trained networks' values are.
2. The kernel's variants (its NumPy reference) with one scale a tensor: cosine and relative L1 against FP64 on the data
   before quantisation, and relative L1 against exact attention on the same integers, the kernel's own share.
"""

from __future__ import annotations

import itertools

import numpy as np

from vitc.kernels import error_model, reference
from vitc.kernels.fields import AttentionFields

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


def variants(tokens: int, dim: int) -> list[tuple[str, float, float, float]]:
    """Name, cosine, relative L1, and the kernel's own relative L1 of each variant."""
    real = np.random.default_rng(0).normal(size=(2, tokens, 3, HEADS, dim))
    q, k, v = real.transpose(2, 0, 3, 1, 4)
    scores = (q @ k.swapaxes(-1, -2)) * dim**-0.5
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    true = (weights @ v / weights.sum(-1, keepdims=True)).transpose(0, 2, 1, 3).reshape(2, tokens, -1)
    scales = [float(np.abs(real[:, :, i]).max() / 127) for i in range(3)]
    integers = np.stack([np.clip(np.rint(real[:, :, i] / scales[i]), -128, 127) for i in range(3)], 2)
    out_scale = float(np.abs(true).max() / 127)
    lines = []
    for name, pv, in_scales, out in (
        ("INT8, P INT8, out INT8", "int8", scales, out_scale),
        ("INT8, P INT8, out FP16", "int8", scales, 0.0),
        ("INT8, P FP16, out FP16", "fp16", scales, 0.0),
        ("FP16", "fp16", [0.0] * 3, 0.0),
    ):
        fields = AttentionFields("packed", HEADS, dim, dim**-0.5, 0, 64, KEY_ROWS, pv, *in_scales, out)
        data = integers.astype(np.int8) if fields.int8_in else real.astype(np.float16)
        inputs = [data.reshape(2, tokens, -1)]
        unit = out or 1.0
        result = reference.attention(fields, inputs).astype(np.float64) * unit
        same_integers = error_model.exact(fields, inputs) * unit
        cosine = float((result * true).sum() / np.linalg.norm(result) / np.linalg.norm(true))
        loss, own = (float(np.abs(result - x).sum() / np.abs(x).sum()) for x in (true, same_integers))
        lines.append((name, cosine, loss, own))
    return lines


def main() -> None:
    print("| sharp | mean of V | tokens | " + " | ".join(WAYS) + " |")
    print("|---" * (3 + len(WAYS)) + "|")
    for sharp, mean, tokens in itertools.product((1, 3), (0, 1), (197, 1025)):
        cells = [f"{error(tokens, sharp, mean, *way):.4f}" for way in WAYS.values()]
        print(f"| {sharp} | {mean} | {tokens} | " + " | ".join(cells) + " |")
    print("\n| tokens | head dim | variant | cosine | relative L1 | the kernel's own |")
    print("|---|---|---|---|---|---|")
    for tokens, dim in ((197, 64), (577, 64), (257, 80)):
        for name, cosine, loss, own in variants(tokens, dim):
            print(f"| {tokens} | {dim} | {name} | {cosine:.5f} | {loss:.4f} | {own:.4f} |")


if __name__ == "__main__":
    main()
