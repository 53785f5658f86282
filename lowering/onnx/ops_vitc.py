"""vitc's own operators: Q/DQ as QuantizeLinear/DequantizeLinear, attention as a call of vitc::VitAttention."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from vitc.graph.attention_call import AttentionCall
from vitc.graph.nodes import shape_of, val
from vitc.kernels.fields import AttentionFields
from vitc.lowering.onnx.emitter import Emitter, emits
from vitc.lowering.onnx.functions import Signature

ops = torch.ops.vitc


@emits(ops.quantize.default)
def _quantize(e: Emitter, node: Node, x: Any, scale: Any, axis: int) -> str:
    zero = e.const(0, torch.int8)
    per_channel: dict[str, Any] = {"axis": int(axis)} if val(scale).ndim else {}
    if per_channel:
        zero = e.initializer(f"zeros_{val(scale).numel()}_int8", torch.zeros(val(scale).numel(), dtype=torch.int8))
    return e.op("QuantizeLinear", [e.value(x), e.value(scale), zero], **per_channel)


@emits(ops.dequantize.default)
def _dequantize(e: Emitter, node: Node, x: Any, scale: Any, axis: int) -> str:
    if all(user.target is torch.ops.aten.linear.default and user.args[1] is node for user in node.users):
        return ""  # a linear's weight: the linear emits it, transposed
    per_channel: dict[str, Any] = {"axis": int(axis)} if val(scale).ndim else {}
    return e.op("DequantizeLinear", [e.value(x), e.value(scale)], **per_channel)


@emits(ops.attention.default, ops.attention_int8.default, whole=True)
def _attention(e: Emitter, node: Node) -> str:
    call = AttentionCall.of(node)
    fields = call.fields()
    signature = Signature(
        layout=call.layout,
        has_bias=call.bias is not None,
        windows=call.bias is not None and str(shape_of(call.bias)[0]) != "1",  # it may be an expression of the batch
        int8_in=fields.int8_in,
        out_type=val(node).dtype,
        bias_type=val(call.bias).dtype if call.bias is not None else None,
        by_head=fields.by_head,
        causal=bool(fields.causal),
    )
    overload = e.signatures.setdefault(signature, f"form{len(e.signatures)}" if e.signatures else "")
    out = e.op("VitAttention", [e.value(t) for t in call.inputs], domain="vitc", **_attributes(fields))
    if overload:
        e.nodes[-1].overload = overload
    return out


def _attributes(fields: AttentionFields) -> dict[str, Any]:
    return {name: list(v) if isinstance(v, tuple) else v for name, v in fields.to_attributes().items()}
