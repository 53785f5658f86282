"""The NumPy reference against exact FP64 attention, within the bound that the error model derives."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from vitc.errors import InputError
from vitc.kernels import error_model, reference
from vitc.kernels.fields import AttentionFields

TOKENS = (1, 16, 63, 64, 65, 197, 257)


def make_fields(**changes: object) -> AttentionFields:
    base = AttentionFields(
        layout="packed",
        num_heads=3,
        head_dim=64,
        scale=0.125,
        has_bias=0,
        tile_q=64,
        tile_k=64,
        pv="int8",
        q_scale=0.02,
        k_scale=0.025,
        v_scale=0.03,
        out_scale=0.005,
    )
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def gaussian(shape: tuple[int, ...], fields: AttentionFields, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=shape)
    if fields.int8_in:
        return np.clip(np.rint(x * 40), -128, 127).astype(np.int8)
    return x.astype(np.float16)


def make_inputs(fields: AttentionFields, batch: int, tokens: int, keys: int, seed: int = 0) -> list[np.ndarray]:
    h, d = fields.num_heads, fields.head_dim
    if fields.layout == "packed":
        inputs = [gaussian((batch, tokens, 3 * h * d), fields, seed)]
    elif fields.layout == "bnhd":
        inputs = [gaussian((batch, n, h * d), fields, seed + i) for i, n in enumerate((tokens, keys, keys))]
    else:
        inputs = [gaussian((batch, h, n, d), fields, seed + i) for i, n in enumerate((tokens, keys, keys))]
    if fields.has_bias:
        inputs.append(np.random.default_rng(seed).normal(size=(2, h, tokens, keys)).astype(np.float16))
    return inputs


def check_against_exact(fields: AttentionFields, inputs: list[np.ndarray]) -> np.ndarray:
    out = reference.attention(fields, inputs)
    assert out.dtype == (np.int8 if fields.int8_out else np.float16)
    error = np.abs(out.astype(np.float64) - error_model.exact(fields, inputs))
    limit = error_model.bound(fields, inputs)
    assert (error <= limit).all(), f"worst excess {np.max(error - limit)}"
    return error


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("pv", ["int8", "fp16"])
@pytest.mark.parametrize("out_scale", [0.005, 0.0])
def test_int8_is_within_the_derived_bound(tokens: int, pv: str, out_scale: float) -> None:
    fields = make_fields(pv=pv, out_scale=out_scale)
    check_against_exact(fields, make_inputs(fields, 2, tokens, tokens))


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("out_scale", [0.005, 0.0])
def test_fp16_is_within_the_derived_bound(tokens: int, out_scale: float) -> None:
    fields = make_fields(q_scale=0.0, k_scale=0.0, v_scale=0.0, out_scale=out_scale, pv="fp16")
    check_against_exact(fields, make_inputs(fields, 2, tokens, tokens))


@pytest.mark.parametrize("layout", ["packed", "bnhd", "bhnd"])
@pytest.mark.parametrize("head_dim", [32, 64, 72, 80, 96, 128])
def test_layouts_and_head_dims(layout: str, head_dim: int) -> None:
    keys = 65 if layout == "packed" else 80
    fields = make_fields(layout=layout, head_dim=head_dim, has_bias=1)
    check_against_exact(fields, make_inputs(fields, 4, 65, keys))


def test_layouts_agree() -> None:
    packed = make_fields()
    qkv = gaussian((2, 65, 3 * 3 * 64), packed)
    q, k, v = np.split(qkv, 3, axis=-1)
    heads_first = [x.reshape(2, 65, 3, 64).transpose(0, 2, 1, 3) for x in (q, k, v)]
    first = reference.attention(packed, [qkv])
    assert np.array_equal(first, reference.attention(dataclasses.replace(packed, layout="bnhd"), [q, k, v]))
    assert np.array_equal(first, reference.attention(dataclasses.replace(packed, layout="bhnd"), heads_first))


def test_bias_rows_repeat_over_the_windows() -> None:
    fields = make_fields(has_bias=1, out_scale=0.0)
    qkv = np.repeat(gaussian((1, 49, 3 * 3 * 64), fields), 6, axis=0)
    bias = np.random.default_rng(1).normal(size=(3, 1, 49, 49)).astype(np.float32)
    out = reference.attention(fields, [qkv, bias])
    assert np.array_equal(out[:3], out[3:])
    assert not np.array_equal(out[0], out[1])


def test_a_constant_v_comes_back_unchanged() -> None:
    fields = make_fields(v_scale=0.01, out_scale=0.01)
    q, k, v = np.split(gaussian((1, 197, 3 * 3 * 64), fields), 3, axis=-1)
    v = np.full_like(v, -128)
    assert (reference.attention(dataclasses.replace(fields, layout="bnhd"), [q, k, v]) == -128).all()


def test_a_masked_row_gives_zeros_and_a_masked_key_nothing() -> None:
    fields = make_fields(has_bias=1, layout="bnhd", num_heads=1, tile_k=32)
    inputs = make_inputs(fields, 2, 3, 70)
    bias = np.zeros((1, 1, 3, 70), np.float32)
    bias[..., 0, :] = -np.inf
    bias[..., 1, :65] = -np.inf
    out = reference.attention(fields, [*inputs[:3], bias])
    assert (out[:, 0] == 0).all()
    alone = reference.attention(fields, [inputs[0], inputs[1][:, 65:], inputs[2][:, 65:], bias[..., 65:]])
    assert np.array_equal(out[:, 1], alone[:, 1])


@pytest.mark.parametrize("scale", [1e-30, 1e-4, 1e4, 1e30])
def test_huge_and_tiny_scales_give_finite_results(scale: float) -> None:
    fields = make_fields(q_scale=scale, k_scale=1.0, out_scale=0.03)
    inputs = make_inputs(fields, 1, 65, 65)
    check_against_exact(fields, inputs)


def test_pv_precisions_reach_the_goals_on_gaussian_data() -> None:
    """Quantized Gaussian data against the unquantized attention: NUMBERS' all-INT8 goal and FP16-PV goal."""
    rng = np.random.default_rng(3)
    real = rng.normal(size=(2, 197, 3 * 3 * 64))
    step = float(np.abs(real).max() / 127)
    qkv = np.clip(np.rint(real / step), -128, 127).astype(np.int8)
    floating = make_fields(q_scale=0.0, k_scale=0.0, v_scale=0.0, out_scale=0.0)
    true = error_model.exact(floating, [real.astype(np.float16)])
    for pv in ("int8", "fp16"):
        fields = make_fields(q_scale=step, k_scale=step, v_scale=step, out_scale=0.0, pv=pv)
        out = reference.attention(fields, [qkv]).astype(np.float64)
        cosine = (out * true).sum() / np.linalg.norm(out) / np.linalg.norm(true)
        assert cosine >= 0.999
        assert np.abs(out - true).sum() / np.abs(true).sum() <= 0.064


def test_fma_rounds_once() -> None:
    rng = np.random.default_rng(0)
    a, b, c = (rng.normal(size=20000).astype(np.float32) for _ in range(3))
    c[::2] = -(a * b)[::2]  # heavy cancellation
    from fractions import Fraction

    got = reference.fma(a, b, c)
    for i in range(0, 2000):
        true = Fraction(float(a[i])) * Fraction(float(b[i])) + Fraction(float(c[i]))
        near = Fraction(float(got[i]))
        for neighbour in (
            np.nextafter(got[i], np.float32(-np.inf)),
            np.nextafter(got[i], np.float32(np.inf)),
        ):
            assert abs(near - true) <= abs(Fraction(float(neighbour)) - true)


@pytest.mark.parametrize(
    ("changes", "inputs", "message"),
    [
        ({}, [], "got 0 inputs and takes 1: qkv"),
        ({}, [np.zeros((1, 4, 576), np.float16)], "qkv is float16, and must be int8"),
        ({}, [np.zeros((1, 4, 575), np.int8)], r"layout 'packed' takes \[B, tokens, 576\]"),
        ({"layout": "bhnd"}, [np.zeros((1, 2, 4, 64), np.int8)] * 3, r"\[B, 3, tokens, 64\]"),
        ({}, [np.zeros((1, 0, 576), np.int8)], r"shape \[1, 0, 576\]"),
        ({"scale": -1.0}, [np.zeros((1, 4, 576), np.int8)], "must be at least 0: negate q instead"),
        (
            {"has_bias": 1},
            [np.zeros((3, 4, 576), np.int8), np.zeros((2, 1, 4, 4), np.float32)],
            r"must be \[a divisor of 3, 1 or 3, 4, 4\]",
        ),
        (
            {"has_bias": 1},
            [np.zeros((3, 4, 576), np.int8), np.zeros((3, 1, 4, 4), np.int8)],
            "bias is int8, and must be float16 or float32",
        ),
    ],
)
def test_refusals(changes: dict[str, object], inputs: list[np.ndarray], message: str) -> None:
    with pytest.raises(InputError, match=message):
        reference.attention(make_fields(**changes), inputs)
