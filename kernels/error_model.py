"""How far the attention kernel may be from exact attention, element by element, and why.

`exact` is softmax attention in FP64 on the real numbers that the inputs stand for. `bound` is derived from the
kernel's roundings (docs/kernel.md, "The error model"); nothing in it is fitted to what was observed. A result outside
of it is a fault of the kernel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vitc.kernels.fields import AttentionFields
from vitc.kernels.reference import (
    INT8_MAX,
    INT8_MIN,
    LOG2_E,
    MAGIC,
    P_MAX,
    STEEP,
    Array,
    check_inputs,
    full_bias,
    heads_first,
    hidden_by_causality,
    out_factor,
    real_logit_factor,
)

U = 2.0**-24
"""Half a unit in the last place of 1.0 in FP32: the relative error of one rounding."""
EX2 = 2.0**-22
"""The relative error of ex2.approx.ftz.f32 (PTX ISA, "ex2")."""
HALF_RELATIVE, HALF_SUBNORMAL = 2.0**-11, 2.0**-25
"""The error of rounding to FP16: relative, and absolute below its smallest normal number."""
NEGLIGIBLE = 2.0**-100
"""Where a key's share of its row vanishes in every rounding of the kernel."""
PV_INT8_STEP = (0.5 + 2.0**-4) / P_MAX
"""Rounding P to FP16 (half a unit in the last place of 128 to 255) and to 1/255 of the tile's maximum."""
LARGEST_SHARE = 128
"""The largest exponent of a share or a decay beyond which the weight vanishes, or the row is measured anew."""


@dataclass(frozen=True)
class Reals:
    """The real numbers of one call, FP64, heads first: `exponents` [B, H, N, M] are those of 2, with their error."""

    exponents: Array
    exponent_error: Array
    v: Array
    exact: Array


def exact(fields: AttentionFields, inputs: Sequence[Array]) -> Array:
    """Softmax attention in FP64, in the output's own numbers: saturated but not rounded. [B, N, H*D]."""
    return _tokens_first(_in_output_units(fields, _reals(fields, inputs).exact))


def bound(fields: AttentionFields, inputs: Sequence[Array]) -> Array:
    """The largest |kernel - exact| of each output element, in the output's own numbers. [B, N, H*D]."""
    reals = _reals(fields, inputs)
    keys = reals.v.shape[2]
    tiles = math.ceil(keys / fields.tile_k)
    weights = np.exp2(reals.exponents - reals.exponents.max(-1, keepdims=True))
    pv_int8 = fields.int8_in and fields.pv == "int8"

    # Every term of both sums goes through at most: exp2 twice a tile (its own, and each later decay), a product and a
    # sum a tile, and the additions inside a tile, which in the tensor core's FP32 may truncate. P in INT8: three exp2
    # beside its own (a share, and two decays: after a third it would vanish), a sum a tile and integers inside.
    passed = (3 * EX2 + (tiles + 4) * U) if pv_int8 else tiles * (2 * EX2 + 4 * U) + 2 * U * keys
    # A weight below NEGLIGIBLE is computed below 2 * NEGLIGIBLE, whatever the factor: its error needs no ratio.
    negligible = weights < NEGLIGIBLE
    exponent_error = np.where(negligible, 0.0, reals.exponent_error)
    relative = np.expm1(math.log(2) * exponent_error) + EX2 + passed
    weights = np.where(negligible, 2 * NEGLIGIBLE, weights)
    if pv_int8:
        # P's rounding enters numerator and denominator alike, so only v's distance from the mean counts.
        lost = _lost_bits(fields)
        rounding = PV_INT8_STEP * 2**lost * _tile_peaks(weights, fields.tile_k) * (1 + relative)
        spread = _weighted_distance(rounding, reals.v, reals.exact)
        best_key = np.take_along_axis(relative, weights.argmax(-1)[..., None], -1)[..., 0]
        least_of_best = 1 - best_key - PV_INT8_STEP * 2 ** lost[..., 0]
        smallest_total = np.maximum((weights * (1 - relative) - rounding).sum(-1), least_of_best)
    else:
        # The denominator sums P before it is rounded to FP16.
        rounding = weights * HALF_RELATIVE + HALF_SUBNORMAL
        spread = rounding @ np.abs(reals.v)
        smallest_total = (weights * (1 - relative)).sum(-1)
    drift = (weights * relative) @ np.abs(reals.v) + (weights * relative).sum(-1)[..., None] * np.abs(reals.exact)
    error = (spread + drift) / smallest_total[..., None] + 4 * U * np.abs(reals.exact)
    if pv_int8:
        # Sums carry MAGIC times the shares until the end: each is rounded as a number of up to 4/3 MAGIC times the
        # shares so far, the shares' own sum as MAGIC times them; and every tile has a key with the largest P.
        error = error + (tiles + 4) * U * (4 / 3 + 1) * float(MAGIC) / ((P_MAX - 1) * 2.0**-lost)

    factor = out_factor(fields).reshape(-1, 1, 1)
    if fields.int8_out:
        return _tokens_first(error * factor + 0.5)
    value = np.abs(reals.exact) + error
    return _tokens_first(error * factor + value * factor * HALF_RELATIVE + HALF_SUBNORMAL)


def _reals(fields: AttentionFields, inputs: Sequence[Array]) -> Reals:
    check_inputs(fields, inputs)
    q, k, v = (x.astype(np.float64) for x in heads_first(fields, inputs))
    factor = real_logit_factor(fields).reshape(-1, 1, 1)
    exponents = (q @ k.swapaxes(-1, -2)) * factor
    # The factor is rounded, the product is rounded, and so is the difference from the maximum.
    distance = np.abs(exponents - exponents.max(-1, keepdims=True))
    error = 3 * U * distance + 8 * U
    if fields.int8_in and fields.pv == "int8":
        error = error + 3 * LARGEST_SHARE * U
    if not fields.int8_in:
        magnitude = np.abs(q) @ np.abs(k).swapaxes(-1, -2) * factor
        error = error + 2 * 2 * U * (q.shape[-1] + 1) * magnitude.max(-1, keepdims=True)
    if fields.has_bias:
        bias = full_bias(inputs[-1], q.shape[0], q.shape[1]).astype(np.float64) * LOG2_E
        error = error + 4 * U * (_largest(exponents) + _largest(bias))
        exponents = exponents + bias
    if fields.causal:
        exponents = np.where(hidden_by_causality(q.shape[2], k.shape[2]), -np.inf, exponents)
    weights = np.exp2(exponents - exponents.max(-1, keepdims=True))
    mean = (weights @ v) / weights.sum(-1, keepdims=True)
    return Reals(exponents, error, v, mean)


def _lost_bits(fields: AttentionFields) -> Array:
    """How far below 255 a tile's largest P may be, in bits: the origin is rounded down. [H or 1, 1, 1]."""
    factor = real_logit_factor(fields).reshape(-1, 1, 1)
    lost = np.where(factor > STEEP, 0.0, 2 * U * (2**24 * factor + 8))
    return np.zeros_like(lost) if fields.has_bias else lost


def _largest(x: Array) -> Array:
    """The largest finite magnitude of each row: a key masked with -inf has weight 0 and no error."""
    return np.abs(np.where(np.isfinite(x), x, 0.0)).max(-1, keepdims=True)  # type: ignore[no-any-return]


def _in_output_units(fields: AttentionFields, mean: Array) -> Array:
    out = mean * out_factor(fields).reshape(-1, 1, 1)
    return np.clip(out, INT8_MIN, INT8_MAX) if fields.int8_out else out


def _tile_peaks(weights: Array, tile_k: int) -> Array:
    """Each key's tile's largest weight, [B, H, N, M]."""
    peaks = np.empty_like(weights)
    for first in range(0, weights.shape[-1], tile_k):
        tile = np.s_[..., first : first + tile_k]
        peaks[tile] = weights[tile].max(-1, keepdims=True)
    return peaks


def _weighted_distance(rounding: Array, v: Array, mean: Array) -> Array:
    """Σ_j rounding_j · |v_j − mean|, a head at a time to keep [N, M, D] small."""
    total = np.empty_like(mean)
    for head in np.ndindex(mean.shape[:2]):
        for row in range(mean.shape[2]):
            total[head][row] = rounding[head][row] @ np.abs(v[head] - mean[head][row])
    return total


def _tokens_first(x: Array) -> Array:
    batch, heads, tokens, dim = x.shape
    return x.transpose(0, 2, 1, 3).reshape(batch, tokens, heads * dim)
