"""The attention kernel's arithmetic in NumPy, step for step.

`attention(fields, inputs)` does what `cuda/attention.cuh` does, in the same order and with the same roundings: the
INT8 path with `pv="int8"` is equal to it bit for bit (up to the GPU's ex2.approx, see docs/kernel.md). Where P.V or
Q.K runs in FP16 the order of the FP32 sums is the tensor core's own, and docs/kernel.md derives how far apart two
orders can be.

One row of queries, one tile of keys after the other (online softmax, Milakov & Gimelshein, arXiv 1805.02867), with
`pv="fp16"`:

    s = q.k                            exact integer (INT8), or an FP32 sum (FP16)
    M = max(M, max(s))                 over the tiles so far
    p = half(2^(f*(s - M)))
    o = o * 2^(f*(M_before - M)) + p.v
    l = l * 2^(f*(M_before - M)) + sum(p)
    out = round(o * (out_factor / l))

With `pv="int8"` P is unsigned, 8 bits, and against the tile's own maximum; what is summed is measured from one tile of
the row, its first (`origin`), whatever the maximum does later:

    m = max(s) over the tile
    c = down(log2(255) - f*m)          rounded down, so that no p exceeds 255; p and the tile's share have the same c
    p = round(half(2^(f*s + c)))
    share = 2^(c_origin - c)
    o = o + (p.v) * share
    l = l + sum(p) * share

Only where a share would exceed 2^64 is the row measured from that tile on. P is unsigned because it is never negative:
255 steps rather than 127, and the tensor core multiplies u8 by s8 at the same rate. It is scaled to the tile's own
maximum, so a tile far below the row's maximum keeps its 8 bits too. `l` sums the *rounded* P, so the weights add up to
one and a constant V comes back unchanged. See docs/decisions/0025-one-origin-a-row.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from vitc.errors import InputError
from vitc.kernels.fields import AttentionFields

Array: TypeAlias = npt.NDArray[Any]
F32 = np.float32

P_MAX = 255
"""P's largest integer: the row's best key of each tile has it."""
LOG2_E = math.log2(math.e)
LOG2_P_MAX = F32(math.log2(P_MAX))
MAGIC = F32(1.5 * 2**23)
"""What integers below 2^22 are added to: the sum is an FP32 number whose bits are theirs. `kMagic` of the kernel."""
STEEP = F32(2.0**-6)
"""Factors above this take the difference of scores first; below, rounding `c` costs P at most 2^-5 of a bit."""
REBASE_AT = F32(64.0)
SMALLEST_NORMAL = float(np.finfo(F32).tiny)
INT8_MIN, INT8_MAX = -128, 127


def attention(fields: AttentionFields, inputs: Sequence[Array]) -> Array:
    """Attention as the kernel computes it: inputs in the order of `fields.input_names` → [B, N, H*D].

    q, k, v are INT8 where `fields.q_scale` > 0, else FP16; the bias FP16 or FP32. The result is INT8 where
    `fields.out_scale` > 0, else FP16. `fields.tile_k` keys are taken at a time. Raises `InputError` for inputs whose
    number, shapes or dtypes are not those of the fields.
    """
    check_inputs(fields, inputs)
    q, k, v = heads_first(fields, inputs)
    bias = full_bias(inputs[-1], q.shape[0], q.shape[1]) if fields.has_bias else None
    if fields.int8_in and fields.pv == "int8":
        weighted, total = _softmax_pv_int8(fields, q, k, v, bias)
    else:
        weighted, total = _softmax_pv_fp16(fields, q, k, v, bias)
    factor = out_factor(fields).astype(F32).reshape(-1, 1, 1)
    out = _finish(weighted, total, factor, int8=fields.int8_out)
    batch, heads, tokens, dim = out.shape
    return np.ascontiguousarray(out.transpose(0, 2, 1, 3)).reshape(batch, tokens, heads * dim)


def logit_factor(fields: AttentionFields) -> Array:
    """What turns q.k into the exponent of 2: (q_scale * k_scale *) scale * log2(e), in FP32. [H or 1].

    At least the smallest normal number: a masked key's -inf times 0 would be NaN.
    """
    factor = real_logit_factor(fields)
    return np.maximum(factor, SMALLEST_NORMAL).astype(F32)


def real_logit_factor(fields: AttentionFields) -> Array:
    """The same in FP64, before it is rounded."""
    factor = float(F32(fields.scale)) * LOG2_E
    if fields.int8_in:
        factor *= float(F32(fields.q_scale)) * float(F32(fields.k_scale))
    q, k, _ = head_scales(fields)
    return factor * (q * k)  # type: ignore[no-any-return]


def out_factor(fields: AttentionFields) -> Array:
    """What turns a weighted mean of V's own numbers into the output's own numbers, FP64. [H or 1]."""
    v_scale = float(F32(fields.v_scale)) if fields.int8_in else 1.0
    return head_scales(fields)[2] * v_scale / (float(F32(fields.out_scale)) if fields.int8_out else 1.0)  # type: ignore[no-any-return]


def head_scales(fields: AttentionFields) -> Array:
    """The factors of q's, k's and v's scale, FP64. [3, H or 1]."""
    factors = np.array(fields.head_scales, F32).astype(np.float64)
    return factors.reshape(3, -1) if fields.by_head else np.ones((3, 1))


def check_inputs(fields: AttentionFields, inputs: Sequence[Array]) -> None:
    """Raises `InputError` where an input is absent, or has the wrong rank, shape or dtype."""
    names = fields.input_names
    if len(inputs) != len(names):
        raise InputError(f"vitc::VitAttention got {len(inputs)} inputs and takes {len(names)}: {', '.join(names)}")
    if fields.scale < 0:
        raise InputError(f"scale of vitc::VitAttention is {fields.scale}, and must be at least 0: negate q instead")
    width = fields.num_heads * fields.head_dim
    dtype = np.dtype(np.int8 if fields.int8_in else np.float16)
    for name, array in zip(names, inputs, strict=True):
        if name == "bias":
            _check_bias(fields, inputs, array)
            continue
        if array.dtype != dtype:
            raise InputError(f"{name} is {array.dtype}, and must be {dtype} (q_scale is {fields.q_scale})")
        wanted: tuple[int, ...]
        if fields.layout == "bhnd":
            wanted, shape = (fields.num_heads, fields.head_dim), (array.shape[1:2] + array.shape[3:4])
            fits = array.ndim == 4 and shape == wanted
            text = f"[B, {wanted[0]}, tokens, {wanted[1]}]"
        else:
            last = 3 * width if name == "qkv" else width
            fits = array.ndim == 3 and array.shape[-1] == last
            text = f"[B, tokens, {last}]"
        if not fits or 0 in array.shape:
            raise InputError(f"{name} has the shape {list(array.shape)}; layout {fields.layout!r} takes {text}")


def _check_bias(fields: AttentionFields, inputs: Sequence[Array], bias: Array) -> None:
    axis = 2 if fields.layout == "bhnd" else 1
    batch, queries = inputs[0].shape[0], inputs[0].shape[axis]
    keys = inputs[0 if fields.layout == "packed" else 1].shape[axis]
    if bias.dtype not in (np.float16, np.float32):
        raise InputError(f"bias is {bias.dtype}, and must be float16 or float32")
    fits = bias.ndim == 4 and bias.shape[1] in (1, fields.num_heads) and bias.shape[2:] == (queries, keys)
    if not fits or batch % bias.shape[0]:
        raise InputError(
            f"bias has the shape {list(bias.shape)}, and must be [a divisor of {batch}, 1 or {fields.num_heads}, "
            f"{queries}, {keys}]"
        )


def heads_first(fields: AttentionFields, inputs: Sequence[Array]) -> tuple[Array, Array, Array]:
    """q [B, H, N, D], k and v [B, H, M, D], as views."""
    heads, dim = fields.num_heads, fields.head_dim
    if fields.layout == "bhnd":
        return inputs[0], inputs[1], inputs[2]
    if fields.layout == "packed":
        qkv = inputs[0].reshape(*inputs[0].shape[:2], 3, heads, dim).transpose(2, 0, 3, 1, 4)
        return qkv[0], qkv[1], qkv[2]
    q, k, v = (x.reshape(*x.shape[:2], heads, dim).transpose(0, 2, 1, 3) for x in inputs[:3])
    return q, k, v


def full_bias(bias: Array, batch: int, heads: int) -> Array:
    """[Wb, H or 1, N, M] → FP32 [B, H, N, M]: batch element b has row b % Wb."""
    repeated = np.tile(bias.astype(F32), (batch // bias.shape[0], 1, 1, 1))
    return np.broadcast_to(repeated, (batch, heads, *bias.shape[2:]))


def hidden_by_causality(queries: int, keys: int) -> Array:
    """[N, M], true where a query does not see a key that comes after it."""
    return np.arange(keys) > np.arange(queries)[:, None]


def _softmax_pv_int8(fields: AttentionFields, q: Array, k: Array, v: Array, bias: Array | None) -> tuple[Array, Array]:
    """Σ p·v and Σ p, with P as unsigned 8-bit integers."""
    state = _Rows(fields, q, bias)
    steep = state.factor > STEEP if bias is None else np.ones((1, 1, 1), bool)
    slope = np.where(steep, F32(1), state.factor)
    start = np.where(steep, F32(0), LOG2_P_MAX)
    with np.errstate(over="ignore"):
        limit = np.where(steep, REBASE_AT / state.factor, REBASE_AT)
    origin = np.full_like(state.total, np.finfo(F32).max)
    shares = np.zeros_like(state.total)
    for keys in state.tiles(k.shape[2]):
        scores = state.scores(q, k, bias, keys)
        if bias is None:
            scores = scores + MAGIC  # as the tensor core leaves them
        own = fma(-scores.max(-1, keepdims=True), slope, start, down=True)
        rise = origin - own
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = np.where(steep, rise * state.factor, rise)
            scores = np.where(steep, scores + own, scores)
        far = rise > limit
        decay = exp2(np.where(far, -scaled, F32(0)))
        state.total, state.weighted, shares = (x * decay for x in (state.total, state.weighted, shares))
        origin = np.where(far, own, origin)
        share = exp2(np.where(far, F32(0), scaled))
        p = _rounded(exp2(fma(scores, state.factor, np.where(steep, LOG2_P_MAX, own))))
        state.total = fma(F32(p.sum(-1, keepdims=True)), share, state.total)
        shares = shares + share
        product = (p @ v[:, :, keys].astype(np.float64)).astype(F32)  # exact: below 2^22
        state.weighted = fma(product + MAGIC, share, state.weighted)
    return fma(-MAGIC, shares, state.weighted), state.total


def _rounded(p: Array) -> Array:
    """To integers by way of FP16, where 1024 + p has none but whole numbers. FP64, as NumPy multiplies those fast.

    NaN, in a tile whose keys are all masked, counts for nothing: its share is 0.
    """
    half = p.astype(np.float16) + np.float16(1024)
    return np.nan_to_num(half.astype(np.float64) - 1024)


def _softmax_pv_fp16(fields: AttentionFields, q: Array, k: Array, v: Array, bias: Array | None) -> tuple[Array, Array]:
    """The same with P as FP16 against the running maximum; V's integers are exact in FP16."""
    state = _Rows(fields, q, bias)
    for keys in state.tiles(k.shape[2]):
        scores = state.scores(q, k, bias, keys)
        decay = state.advance(scores)
        p = exp2((scores - _finite(state.peak)) * state.factor)
        state.total = state.total * decay + p.sum(-1, keepdims=True, dtype=F32)
        half = p.astype(np.float16).astype(F32)
        state.weighted = state.weighted * decay + half @ v[:, :, keys].astype(F32)
    return state.weighted, state.total


class _Rows:
    """The running state of every query row: maximum, sum and weighted value."""

    def __init__(self, fields: AttentionFields, q: Array, bias: Array | None) -> None:
        self.tile_k = fields.tile_k
        self.causal = bool(fields.causal)
        self.logit_factor = logit_factor(fields).reshape(-1, 1, 1)
        # With a bias the scores are exponents of 2 already; without one they stay q.k, and are scaled at the end.
        self.factor = np.ones((1, 1, 1), F32) if bias is not None else self.logit_factor
        self.peak = np.full((*q.shape[:3], 1), -np.inf, F32)
        self.total = np.zeros((*q.shape[:3], 1), F32)
        self.weighted = np.zeros(q.shape, F32)

    def tiles(self, keys: int) -> list[slice]:
        return [slice(first, min(first + self.tile_k, keys)) for first in range(0, keys, self.tile_k)]

    def scores(self, q: Array, k: Array, bias: Array | None, keys: slice) -> Array:
        # Integers below 2^21 are exact in FP64 and in FP32; FP16 products are summed in FP32.
        wide = np.float64 if q.dtype == np.int8 else F32
        scores = (q.astype(wide) @ k[:, :, keys].astype(wide).swapaxes(-1, -2)).astype(F32)  # type: ignore[operator]
        if bias is not None:
            scores = fma(scores, self.logit_factor, bias[..., keys] * F32(LOG2_E))
        if self.causal:
            scores = np.where(hidden_by_causality(q.shape[2], k.shape[2])[:, keys], F32(-np.inf), scores)
        return scores

    def advance(self, scores: Array) -> Array:
        """Takes a tile's maxima in; gives the weight of what was."""
        peak = np.maximum(self.peak, scores.max(-1, keepdims=True))
        decay = exp2((self.peak - _finite(peak)) * self.factor)
        self.peak = peak
        return decay


def _finite(peak: Array) -> Array:
    """0 for -inf: a row that a bias has masked so far must not give -inf - -inf."""
    return np.where(np.isneginf(peak), F32(0), peak)


def _finish(weighted: Array, total: Array, factor: Array, *, int8: bool) -> Array:
    # A row whose keys are all masked has no mean: it gives zeros.
    multiplier = np.divide(factor, total, out=np.zeros(total.shape, F32), where=total > 0)
    out = weighted * multiplier
    if int8:
        return np.rint(np.clip(out, INT8_MIN, INT8_MAX)).astype(np.int8)  # type: ignore[no-any-return]
    return out.astype(np.float16)


def exp2(x: Array) -> Array:
    """2^x, correctly rounded to FP32; results below the smallest normal number are 0, as ex2.approx.ftz gives."""
    with np.errstate(under="ignore"):
        y = np.exp2(x.astype(np.float64))
    return np.where(y < SMALLEST_NORMAL, 0.0, y).astype(F32)


def fma(a: Array | np.float32, b: Array | np.float32, c: Array | np.float32, *, down: bool = False) -> Array:
    """a*b + c in FP32 with one rounding: to the nearest, or `down`.

    The product of two FP32 numbers is exact in FP64. The sum is rounded to odd there, after which rounding to FP32 is
    correct (Boldo & Melquiond, "Emulation of a FMA and correctly rounded sums", 2008).
    """
    product = np.asarray(a, np.float64) * np.asarray(b, np.float64)
    addend = np.asarray(c, np.float64)
    with np.errstate(invalid="ignore"):
        total = product + addend
        virtual = total - product
        error = (product - (total - virtual)) + (addend - virtual)
    inexact_even = np.isfinite(total) & (error != 0) & ((total.view(np.int64) & 1) == 0)
    towards = np.where(error > 0, np.inf, -np.inf)
    odd = np.where(inexact_even, np.nextafter(total, towards), total)
    nearest = odd.astype(F32)
    return np.where(nearest > odd, np.nextafter(nearest, F32(-np.inf)), nearest) if down else nearest
