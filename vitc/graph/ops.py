"""The four operators vitc adds to ATen, each with a real CPU implementation and a fake one.

`vitc::attention`       exact tiled attention, online softmax, never the N×N matrix (FlashAttention-2, arXiv 2307.08691)
`vitc::attention_int8`  at an INT8 border, by the arithmetic of the CUDA kernel; on a GPU it is that kernel
`vitc::quantize`        symmetric linear quantization, as ONNX QuantizeLinear (opset 19) with zero point 0
`vitc::dequantize`      its inverse

Layouts, names and fields are those of kernels/vit_attention.toml; the arguments are those of AttentionCall.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitc.errors import InternalError, unknown
from vitc.graph.attention_call import OPERANDS, AttentionCall, attention_schema
from vitc.kernels import reference
from vitc.kernels.fields import AttentionFields, attention_spec
from vitc.kernels.launch import shared_launch

INT8_MIN, INT8_MAX = -128, 127


def _by_threads(fields: AttentionFields, inputs: list[Any]) -> Any:
    """The kernel's reference, the images of a batch shared among torch's number of threads: each image is on its own,
    and NumPy lets others run while it computes."""
    images, shared = inputs[0].shape[0], inputs[-1:] if fields.has_bias else []
    workers = min(torch.get_num_threads(), images)
    if workers == 1 or (shared and shared[0].shape[0] > 1):
        return reference.attention(fields, inputs)
    own = inputs[: len(inputs) - len(shared)]
    parts = [list(part) + shared for part in zip(*(np.array_split(t, workers) for t in own), strict=True)]
    with ThreadPoolExecutor(workers) as pool:
        return np.concatenate(list(pool.map(lambda part: reference.attention(fields, part), parts)))


def _heads_first(t: Tensor, num_heads: int, head_dim: int) -> Tensor:
    """[B, N, H·D] → [B, H, N, D], a view."""
    return t.reshape(t.shape[0], t.shape[1], num_heads, head_dim).transpose(1, 2)


def split_heads(
    q: Tensor, k: Tensor | None, v: Tensor | None, num_heads: int, head_dim: int, layout: str
) -> tuple[Tensor, Tensor, Tensor]:
    """The three operands as [B, H, N, D] views, whatever their layout."""
    if layout == "packed":
        packed = q.reshape(q.shape[0], q.shape[1], 3, num_heads, head_dim).permute(2, 0, 3, 1, 4)
        return packed[0], packed[1], packed[2]
    if k is None or v is None:
        raise InternalError(f"layout {layout!r} takes q, k and v; k or v is missing")
    if layout == "bnhd":
        return (
            _heads_first(q, num_heads, head_dim),
            _heads_first(k, num_heads, head_dim),
            _heads_first(v, num_heads, head_dim),
        )
    if layout == "bhnd":
        return q, k, v
    raise InternalError(unknown("attention layout", layout, attention_spec().layouts))


def heads_of(call: AttentionCall[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """A call's q, k and v as [B, H, N, D] views."""
    return split_heads(call.q, call.k, call.v, call.num_heads, call.head_dim, call.layout)


def fused_attention(call: AttentionCall[Tensor]) -> Tensor:
    """vitc::attention by torch's own scaled_dot_product_attention: [B, N, H·D]."""
    q, k, v = heads_of(call)
    bias = call.bias
    if bias is not None and bias.shape[0] > 1:
        bias = bias.repeat(q.shape[0] // bias.shape[0], 1, 1, 1)
    if call.causal:
        hidden = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).triu(1)
        bias = torch.zeros_like(hidden, dtype=q.dtype).masked_fill(hidden, -torch.inf) + (0 if bias is None else bias)
    mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=call.scale)
    return mixed.transpose(1, 2).flatten(2)


def tiled_attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float, tile_q: int, tile_k: int, causal: int = 0
) -> Tensor:
    """Exact attention over tiles: q [B, H, N, D], k and v [B, H, M, D], bias [Wb, H or 1, N, M] → [B, N, H·D].

    Per tile of queries a running maximum, sum and weighted value are kept in FP32 (online softmax, Milakov &
    Gimelshein, arXiv 1805.02867), so at most tile_q × tile_k scores of each head exist at a time.
    """
    batch, heads, tokens, dim = q.shape
    keys = k.shape[2]
    if bias is not None and bias.shape[0] > 1:
        bias = bias.repeat(batch // bias.shape[0], 1, 1, 1)
    compute = torch.promote_types(q.dtype, torch.float32)
    k32, v32 = k.to(compute), v.to(compute)
    out = q.new_empty((batch, tokens, heads, dim))
    for q0 in range(0, tokens, tile_q):
        q_tile = q[:, :, q0 : q0 + tile_q].to(compute) * scale
        rows = q_tile.shape[2]
        peak = q_tile.new_full((batch, heads, rows, 1), -torch.inf)
        total = q_tile.new_zeros((batch, heads, rows, 1))
        weighted = q_tile.new_zeros((batch, heads, rows, dim))
        for k0 in range(0, min(keys, q0 + tile_q) if causal else keys, tile_k):
            scores = q_tile @ k32[:, :, k0 : k0 + tile_k].transpose(-1, -2)
            if bias is not None:
                scores = scores + bias[:, :, q0 : q0 + tile_q, k0 : k0 + tile_k]
            if causal:
                hidden = torch.ones(scores.shape[2:], dtype=torch.bool, device=q.device).triu(q0 - k0 + 1)
                scores = scores.masked_fill(hidden, -torch.inf)
            new_peak = torch.maximum(peak, scores.amax(-1, keepdim=True))
            # A row that is masked so far has the peak -inf: exp(-inf - -inf) would be NaN.
            safe_peak = torch.where(new_peak.isneginf(), torch.zeros_like(new_peak), new_peak)
            decay = torch.exp(peak - safe_peak)
            weights = torch.exp(scores - safe_peak)
            total = total * decay + weights.sum(-1, keepdim=True)
            weighted = weighted * decay + weights @ v32[:, :, k0 : k0 + tile_k]
            peak = new_peak
        out[:, q0 : q0 + tile_q] = (weighted / total).transpose(1, 2).to(q.dtype)
    return out.reshape(batch, tokens, heads * dim)


@torch.library.custom_op("vitc::attention", mutates_args=(), schema=attention_schema(int8=False))
def attention(*args: Any) -> Tensor:
    """Exact tiled attention; returns [B, N, H·D] in q's dtype."""
    call = AttentionCall[Tensor](*args)
    return tiled_attention(*heads_of(call), call.bias, call.scale, call.tile_q, call.tile_k, call.causal)


@attention.register_fake
def _(*args: Any) -> Tensor:
    call = AttentionCall[Tensor](*args)
    return call.q.new_empty(_output_shape(call))


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    call = AttentionCall[Tensor](*inputs)
    ctx.save_for_backward(*call.operands())
    ctx.call, ctx.options = call.with_operands([None] * len(OPERANDS)), len(inputs) - len(OPERANDS)


def _attention_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Through torch's own attention, computed again: tiles make no difference to a derivative."""
    with torch.enable_grad():
        operands = [None if t is None else t.detach().requires_grad_() for t in ctx.saved_tensors]
        out = fused_attention(ctx.call.with_operands(operands))
        found = iter(torch.autograd.grad(out, [t for t in operands if t is not None], grad))
    return (*(None if t is None else next(found) for t in operands), *[None] * ctx.options)


attention.register_autograd(_attention_backward, setup_context=_keep_for_backward)


@torch.library.custom_op("vitc::quantize", mutates_args=())
def quantize(x: Tensor, scale: Tensor, axis: int) -> Tensor:
    """x / scale, rounded half to even, saturated to [-128, 127]; scale 0-d (per tensor) or 1-d along `axis`."""
    return torch.clamp(torch.round(x / _along(scale, x, axis)), INT8_MIN, INT8_MAX).to(torch.int8)


@quantize.register_fake
def _(x: Tensor, scale: Tensor, axis: int) -> Tensor:
    return torch.empty_like(x, dtype=torch.int8)


@torch.library.custom_op("vitc::dequantize", mutates_args=())
def dequantize(x: Tensor, scale: Tensor, axis: int) -> Tensor:
    """x · scale in scale's dtype."""
    return x.to(scale.dtype) * _along(scale, x, axis)


@dequantize.register_fake
def _(x: Tensor, scale: Tensor, axis: int) -> Tensor:
    return torch.empty_like(x, dtype=scale.dtype)


def _along(scale: Tensor, x: Tensor, axis: int) -> Tensor:
    if scale.ndim == 0:
        return scale
    shape = [1] * x.ndim
    shape[axis] = -1
    return scale.reshape(shape)


@torch.library.custom_op("vitc::attention_int8", mutates_args=(), schema=attention_schema(int8=True))
def attention_int8(*args: Any) -> Tensor:
    """Attention with an INT8 border, by the kernel's own arithmetic: its roundings, P as `pv` says.

    A floating-point output has passed FP16 as the kernel's has. Here on the CPU; on a GPU the kernel itself runs.
    Raises InputError for shapes and dtypes that the operator has not.
    """
    call = AttentionCall[Tensor](*args)
    fields = call.fields()
    out = torch.from_numpy(_by_threads(fields, [t.detach().numpy() for t in call.inputs]))
    return out.to(_output_dtype(call))


@attention_int8.register_kernel("cuda")
def _(*args: Any) -> Tensor:
    call = AttentionCall[Tensor](*args)
    fields = call.fields()
    out = call.q.new_empty(_output_shape(call), dtype=torch.int8 if fields.int8_out else torch.float16)
    launch_on(fields, call.inputs, out, torch.cuda.current_stream(call.q.device).cuda_stream)
    return out.to(_output_dtype(call))


@attention_int8.register_fake
def _(*args: Any) -> Tensor:
    call = AttentionCall[Tensor](*args)
    return call.q.new_empty(_output_shape(call), dtype=_output_dtype(call))


def _output_dtype(call: AttentionCall[Tensor]) -> torch.dtype:
    return torch.int8 if call.out_scale > 0 else call.out_dtype or torch.float16


def _output_shape(call: AttentionCall[Tensor]) -> tuple[int, int, int]:
    tokens = call.q.shape[2] if call.layout == "bhnd" else call.q.shape[1]
    return call.q.shape[0], tokens, call.width


def launch_on(fields: AttentionFields, inputs: Sequence[Tensor], out: Tensor, stream: int) -> None:
    """Starts the kernel on tensors of the current GPU; `out` is written when the stream gets there."""
    whole = [t.contiguous() for t in inputs]
    dtypes = [str(t.dtype).removeprefix("torch.") for t in (*whole, out)]
    shapes = [tuple(t.shape) for t in whole]
    shared_launch()(fields, shapes, dtypes, [t.data_ptr() for t in whole], [out.data_ptr()], stream)
