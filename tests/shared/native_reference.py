"""The blocks in NumPy, in exact integers and float64: what csrc/ is held to."""

from __future__ import annotations

import math

import numpy as np

from vitc.lowering.cpu.native.match import Attention, Block, Linear, Norm, Trunk
from vitc.lowering.cpu.native.tape import one_sided

erf = np.vectorize(math.erf)


def run_trunk(trunk: Trunk, values: dict[str, np.ndarray], finer: bool = False) -> dict[str, np.ndarray]:
    """Every tensor of the trunk; integers as int8, with `finer` those behind an activation as multiples of a finer
    step."""
    values = dict(values)
    for block in trunk.blocks:
        values[block.output] = run_block(block, values, finer)
    return values


def run_block(block: Block, values: dict[str, np.ndarray], finer: bool = False) -> np.ndarray:
    x = values[block.input]
    if isinstance(block, Norm):
        wide = x.astype(np.float64)
        centred = wide - wide.mean(-1, keepdims=True)
        normal = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + block.epsilon)
        return quantized(normal * block.weight + block.bias, block.step)
    if isinstance(block, Attention):
        return attention(block, x)
    return linear(block, x, values.get(block.residual or ""), finer)


def quantized(x: np.ndarray, step: float) -> np.ndarray:
    return np.clip(np.rint(x / step), -128, 127).astype(np.int8)


def linear(block: Linear, x: np.ndarray, residual: np.ndarray | None, finer: bool) -> np.ndarray:
    sums = x.astype(np.float64) @ block.weight.astype(np.float64)  # whole numbers below 2^53: exact
    y = sums * block.scale.astype(np.float64) + block.bias
    if block.activation == "gelu":
        y = y * 0.5 * (1 + erf(y / math.sqrt(2)))
    elif block.activation == "gelu_tanh":
        y = y * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))
    if block.step is not None and block.activation is not None and finer:
        factor, zero = one_sided(block.step)
        return (np.clip(np.rint(y / block.step / factor) + zero, 0, 255) - zero) * factor
    if block.step is not None:
        return quantized(y, block.step)
    return (y if residual is None else residual + y).astype(np.float32)


def attention(block: Attention, x: np.ndarray) -> np.ndarray:
    """Softmax weights rounded to 1/255 of the row's largest, as the kernel's."""
    images, tokens, _ = x.shape
    q, k, v = x.reshape(images, tokens, 3, block.heads, block.head_dim).transpose(2, 0, 3, 1, 4).astype(np.int64)
    scores = (q @ k.swapaxes(-1, -2)) * block.score_scale[:, None, None].astype(np.float64)
    weights = np.rint(255 * np.exp(scores - scores.max(-1, keepdims=True)))
    mixed = (weights @ v) / weights.sum(-1, keepdims=True) * block.value_scale[:, None, None]
    return quantized(mixed.transpose(0, 2, 1, 3).reshape(images, tokens, -1), 1.0)
