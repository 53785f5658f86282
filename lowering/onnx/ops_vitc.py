"""vitc's own operators: Q/DQ as QuantizeLinear/DequantizeLinear, attention as a call of vitc::VitAttention."""

from __future__ import annotations

import torch
from torch.fx import Node

from vitc.graph.nodes import shape_of, val
from vitc.kernels.fields import split_scales
from vitc.lowering.onnx.emitter import Emitter, emits
from vitc.lowering.onnx.functions import Signature

ops = torch.ops.vitc


@emits(ops.quantize.default)
def _quantize(e: Emitter, node: Node) -> str:
    x, scale, axis = node.args
    zero = e.const(0, torch.int8)
    per_channel = {"axis": int(axis)} if val(scale).ndim else {}  # type: ignore[arg-type]
    if per_channel:
        zero = e.initializer(f"zeros_{val(scale).numel()}_int8", torch.zeros(val(scale).numel(), dtype=torch.int8))  # type: ignore[arg-type]
    return e.op("QuantizeLinear", [e.value(x), e.value(scale), zero], **per_channel)  # type: ignore[arg-type]


@emits(ops.dequantize.default)
def _dequantize(e: Emitter, node: Node) -> str:
    x, scale, axis = node.args
    if all(user.target is torch.ops.aten.linear.default and user.args[1] is node for user in node.users):
        return ""  # a linear's weight: the linear emits it, transposed
    per_channel = {"axis": int(axis)} if val(scale).ndim else {}  # type: ignore[arg-type]
    return e.op("DequantizeLinear", [e.value(x), e.value(scale)], **per_channel)  # type: ignore[arg-type]


@emits(ops.attention.default)
def _attention(e: Emitter, node: Node) -> str:
    q, k, v, bias, heads, head_dim, scale, layout, tile_q, tile_k = node.args
    return _call(e, node, [q, k, v], bias, heads, head_dim, scale, layout, tile_q, tile_k, "fp16", [0.0] * 3, 0.0)  # type: ignore[arg-type, list-item]


@emits(ops.attention_int8.default)
def _attention_int8(e: Emitter, node: Node) -> str:
    q, k, v, bias, heads, head_dim, scale, layout, tile_q, tile_k, pv, in_scales, out_scale, _ = node.args
    return _call(e, node, [q, k, v], bias, heads, head_dim, scale, layout, tile_q, tile_k, pv, in_scales, out_scale)  # type: ignore[arg-type, list-item]


def _call(
    e: Emitter, node: Node, operands: list[Node | None], bias: Node | None, heads: int, head_dim: int, scale: float,
    layout: str, tile_q: int, tile_k: int, pv: str, in_scales: list[float], out_scale: float,
) -> str:  # fmt: skip
    common, head_scales = split_scales(in_scales)
    inputs = [e.value(t) for t in operands if t is not None]
    if bias is not None:
        inputs.append(e.value(bias))
    signature = Signature(
        layout=layout,
        has_bias=bias is not None,
        windows=bias is not None and shape_of(bias)[0] != 1,
        int8_in=common[0] > 0,
        out_type=val(node).dtype,
        bias_type=val(bias).dtype if bias is not None else None,
        by_head=len(head_scales) > 1,
    )
    overload = e.signatures.setdefault(signature, f"form{len(e.signatures)}" if e.signatures else "")
    out = e.op(
        "VitAttention", inputs, domain="vitc", layout=layout, num_heads=heads, head_dim=head_dim, scale=float(scale),
        has_bias=int(bias is not None), tile_q=tile_q, tile_k=tile_k, pv=pv, q_scale=common[0], k_scale=common[1],
        v_scale=common[2], out_scale=float(out_scale), head_scales=list(head_scales),
    )  # fmt: skip
    if overload:
        e.nodes[-1].overload = overload
    return out
