"""A stretch of a quantized graph in which activations are clipped to their ranges and not rounded: weights are the only
error left, and everything has a derivative."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vitc.passes.interpreter import FastInterpreter, fused_attention

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
            return _attention(*args)
        return super().call_function(target, args, kwargs)


def _attention(*args: Any) -> Tensor:
    q, k, v, bias, heads, head_dim, scale, layout, _, _, _, in_scales, out_scale, dtype = args
    parts = q.chunk(3, -1) if k is None else (q, k, v)
    exact = [t.float() * s for t, s in zip(parts, in_scales, strict=True)]
    q, k, v = (torch.cat(exact, -1), None, None) if k is None else exact
    out = fused_attention(q, k, v, bias, heads, head_dim, scale, layout)
    return _clip(out / out_scale) if out_scale else out.to(dtype)


def _clip(x: Tensor) -> Tensor:
    """As INT8 has it, in steps."""
    return x.clamp(-128, 127)
