"""A stretch of a quantized graph in which activations are clipped to their ranges and not rounded: weights are the only
error left, and everything has a derivative."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vitc.graph.attention_call import AttentionCall
from vitc.graph.ops import fused_attention
from vitc.passes.interpreter import FastInterpreter

ops = torch.ops.vitc


class Unrounded(FastInterpreter):
    """Computes a quantized graph's nodes that way."""

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target is ops.quantize.default:
            return _clip(args[0] / args[1])
        if target is ops.dequantize.default:
            x, step, _ = args
            return x.float() * (step.reshape([-1] + [1] * (x.ndim - 1)) if step.ndim else step)
        if target is ops.attention_int8.default:
            return _attention(AttentionCall(*args, **kwargs))
        return super().call_function(target, args, kwargs)


def _attention(call: AttentionCall[Tensor]) -> Tensor:
    parts = call.q.chunk(3, -1) if call.packed else call.parts
    exact = [t.float() * s for t, s in zip(parts, call.in_scales, strict=True)]
    out = fused_attention(call.with_parts([torch.cat(exact, -1)] if call.packed else exact))
    return _clip(out / call.out_scale) if call.out_scale else out.to(call.out_dtype)


def _clip(x: Tensor) -> Tensor:
    """As INT8 has it, in steps."""
    return x.clamp(-128, 127)
