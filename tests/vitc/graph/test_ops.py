"""torch.ops.vitc.attention_int8: the kernel's own arithmetic on the CPU, and what its CUDA side hands to the
launcher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

import vitc.graph.ops
from vitc.errors import InputError
from vitc.kernels import error_model, reference
from vitc.kernels.fields import AttentionFields

HEADS, DIM = 3, 32


def call(
    fields: AttentionFields, inputs: Sequence[torch.Tensor], scales: Sequence[float], dtype: torch.dtype
) -> torch.Tensor:
    operands = [*inputs[: len(inputs) - fields.has_bias], None, None][:3]
    bias = inputs[-1] if fields.has_bias else None
    return torch.ops.vitc.attention_int8(
        *operands, bias, fields.num_heads, fields.head_dim, fields.scale, fields.layout, fields.tile_q, fields.tile_k,
        fields.causal, fields.pv, list(scales), fields.out_scale, dtype,
    )  # fmt: skip


def integers(*shape: int) -> torch.Tensor:
    return torch.randint(-128, 128, shape, dtype=torch.int8, generator=torch.Generator().manual_seed(len(shape)))


@pytest.mark.parametrize("pv", ["int8", "fp16"])
@pytest.mark.parametrize("out_scale", [0.0, 0.004])
@pytest.mark.parametrize(("layout", "has_bias"), [("packed", 0), ("packed", 1), ("bhnd", 1)])
def test_the_cpu_runs_the_kernel_s_arithmetic(pv: str, out_scale: float, layout: str, has_bias: int) -> None:
    scales = (0.02, 0.025, 0.03)
    fields = AttentionFields(layout, HEADS, DIM, 0.2, has_bias, 64, 32, pv, *scales, out_scale)
    shapes = {"packed": [(4, 70, 3 * HEADS * DIM)], "bhnd": [(4, HEADS, 70, DIM)] * 3}[layout]
    inputs = [integers(*shape) for shape in shapes]
    if has_bias:
        inputs.append(torch.randn(2, 1, 70, 70, generator=torch.Generator().manual_seed(0)))
    out = call(fields, inputs, scales, torch.float32)
    arrays = [t.numpy() for t in inputs]
    assert out.dtype == (torch.int8 if out_scale else torch.float32)
    np.testing.assert_array_equal(out.numpy(), reference.attention(fields, arrays).astype(out.numpy().dtype))
    error = np.abs(out.numpy().astype(np.float64) - error_model.exact(fields, arrays))
    assert (error <= error_model.bound(fields, arrays)).all()


def test_p_in_int8_is_not_p_in_fp16() -> None:
    """The precision of P is the kernel's, not the softmax's."""
    scales = (0.02, 0.025, 0.03)
    outs = [
        call(
            AttentionFields("packed", HEADS, DIM, 0.2, 0, 64, 32, pv, *scales, 0.0),
            [integers(1, 70, 288)],
            scales,
            torch.float16,
        )
        for pv in ("int8", "fp16")
    ]
    assert not torch.equal(*outs)
    torch.testing.assert_close(*outs, atol=0.05, rtol=0)


def test_scales_by_head() -> None:
    scales = [0.02, 0.01, 0.005, 0.025, 0.05, 0.0125, 0.03, 0.03, 0.06]
    x = integers(2, 70, 3 * HEADS * DIM)
    fields = AttentionFields("packed", HEADS, DIM, 0.2, 0, 64, 32, "int8", 0.02, 0.05, 0.06, 0.004)
    out = call(fields, [x], scales, torch.float16).reshape(2, 70, HEADS, DIM)
    parts = x.reshape(2, 70, 3, HEADS, DIM)
    for head in range(HEADS):
        one = AttentionFields("packed", 1, DIM, 0.2, 0, 64, 32, "int8", *scales[head::HEADS], 0.004)
        alone = call(one, [parts[:, :, :, head].reshape(2, 70, -1)], scales[head::HEADS], torch.float16)
        # A factor times the common scale is the head's scale up to a rounding of FP32: a step of INT8 at most.
        assert (out[:, :, head].int() - alone.int()).abs().max() <= 1


@pytest.mark.parametrize("pv", ["int8", "fp16"])
@pytest.mark.parametrize(
    ("queries", "keys"), [(n, n) for n in (1, 2, 31, 64, 65, 197, 577, 1025)] + [(70, 17), (17, 70)]
)
def test_causal_against_torch_in_fp64(pv: str, queries: int, keys: int) -> None:
    scales = (0.02, 0.025, 0.03)
    fields = AttentionFields("bhnd", 1, 64, 0.125, 0, 64, 64, pv, *scales, 0.0, causal=1)
    inputs = [integers(1, 1, n, 64) for n in (queries, keys, keys)]
    out = torch.ops.vitc.attention_int8(
        *inputs, None, 1, 64, 0.125, "bhnd", 64, 64, 1, pv, list(scales), 0.0, torch.float16
    )
    q, k, v = (x.double() * scale for x, scale in zip(inputs, scales, strict=True))
    want = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.125)[0]
    limit = error_model.bound(fields, [x.numpy() for x in inputs])
    assert (np.abs(out.numpy().astype(np.float64) - want.numpy()) <= limit + 1e-12).all()


@pytest.mark.parametrize(("queries", "keys"), [(37, 37), (37, 20), (20, 37)])
def test_causal_in_floating_point_and_its_derivative(queries: int, keys: int) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 2, n, 8, generator=generator).requires_grad_() for n in (queries, keys, keys))
    out = torch.ops.vitc.attention(q, k, v, None, 2, 8, 0.3, "bhnd", 16, 32, 1)
    want = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3)
    torch.testing.assert_close(out, want.transpose(1, 2).flatten(2), atol=1e-5, rtol=1e-5)
    theirs = torch.autograd.grad(want.square().sum(), (q, k, v))
    for ours, grad in zip(torch.autograd.grad(out.square().sum(), (q, k, v)), theirs, strict=True):
        torch.testing.assert_close(ours, grad, atol=1e-4, rtol=1e-4)


def test_shapes_that_do_not_fit() -> None:
    fields = AttentionFields("packed", HEADS, DIM, 0.2, 0, 64, 32, "int8", 0.1, 0.1, 0.1, 0.0)
    with pytest.raises(InputError, match=r"qkv has the shape \[1, 7, 287\]; layout 'packed' takes \[B, tokens, 288\]"):
        call(fields, [integers(1, 7, 287)], (0.1, 0.1, 0.1), torch.float16)


def test_a_cuda_implementation_is_registered() -> None:
    name = "vitc::attention_int8"
    assert torch._C._dispatch_has_kernel_for_dispatch_key(name, "CUDA")


def test_what_the_gpu_is_handed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(vitc.graph.ops, "shared_launch", lambda: lambda *arguments: calls.append(arguments))
    fields = AttentionFields("bnhd", HEADS, DIM, 0.2, 0, 64, 32, "int8", 0.1, 0.1, 0.1, 0.0)
    whole = integers(2, 7, 2 * HEADS * DIM)
    inputs = [whole[..., : HEADS * DIM], *(integers(2, 9, HEADS * DIM) for _ in range(2))]
    out = torch.empty(2, 7, HEADS * DIM, dtype=torch.float16)
    vitc.graph.ops.launch_on(fields, inputs, out, stream=5)
    ((given, shapes, dtypes, addresses, outputs, stream),) = calls
    assert (given, shapes, stream) == (fields, [(2, 7, 96), (2, 9, 96), (2, 9, 96)], 5)
    assert dtypes == ["int8", "int8", "int8", "float16"]
    assert addresses[0] != whole.data_ptr()  # the kernel takes whole tensors: a view was copied
    assert addresses[1:] == [t.data_ptr() for t in inputs[1:]]
    assert outputs == [out.data_ptr()]


@pytest.mark.parametrize("biases", [0, 1, 2])
@pytest.mark.parametrize("layout", ["packed", "bnhd", "bhnd"])
def test_attention_s_derivative_is_autograd_s_through_the_formula(layout: str, biases: int) -> None:
    shapes = {"packed": [(4, 5, 24)], "bnhd": [(4, 5, 8)] * 3, "bhnd": [(4, 2, 5, 4)] * 3}[layout]
    operands = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    bias = torch.randn(biases, 2, 5, 5, dtype=torch.float64, requires_grad=True) if biases else None
    leaves = [*operands, *([] if bias is None else [bias])]
    out = torch.ops.vitc.attention(*[*operands, None, None][:3], bias, 2, 4, 0.3, layout, 2, 2)
    q, k, v = vitc.graph.ops.split_heads(*[*operands, None, None][:3], 2, 4, layout)
    scores = 0.3 * q @ k.transpose(-1, -2) + (0 if bias is None else bias.repeat(4 // biases, 1, 1, 1))
    formula = (torch.softmax(scores, -1) @ v).transpose(1, 2).reshape(4, 5, 8)
    weights = torch.randn_like(out)
    got, want = (torch.autograd.grad((x * weights).sum(), leaves) for x in (out, formula))
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("bias", [None, torch.randn(1, 2, 5, 5, generator=torch.Generator().manual_seed(1))])
def test_the_number_of_threads_changes_no_bit_of_attention_int8(bias: torch.Tensor | None) -> None:
    generator, threads = torch.Generator().manual_seed(0), torch.get_num_threads()
    q, k, v = (torch.randint(-127, 128, (3, 5, 16), generator=generator, dtype=torch.int8) for _ in range(3))
    found = []
    try:
        for count in (1, 2, 8):
            torch.set_num_threads(count)
            scales = [0.02, 0.02, 0.02]
            found.append(
                torch.ops.vitc.attention_int8(
                    q, k, v, bias, 2, 8, 0.35, "bnhd", 16, 16, 0, "int8", scales, 0.01, torch.float32
                )
            )
    finally:
        torch.set_num_threads(threads)
    assert found[0].unique().numel() > 10
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
