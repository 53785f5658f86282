"""What a target's TensorRT could do with one attention instead of vitc's kernel, and what each should take.

TensorRT's own INT8 attention and where it is not to be had: docs/decisions/0022-which-tile.md has the sources.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from vitc.cost.model import predict
from vitc.cost.records import OpCost
from vitc.targets import Target

# TensorRT's own INT8 attention: head sizes and tokens that it takes (NVIDIA/TensorRT#3714, #4167).
_INT8_HEAD_DIMS = (16, 32, 64)
_INT8_MOST_TOKENS = 512
_ORIN = "8.7"


@dataclass(frozen=True)
class AttentionOption:
    """One way to run an attention.

    name: what runs it.
    ms:   predicted; None where the target does not have it.
    why:  why not, then.
    """

    name: str
    ms: float | None
    why: str = ""


def attention_options(cost: OpCost, target: Target) -> tuple[AttentionOption, ...]:
    """vitc's kernel first, then TensorRT's own. `cost` is a record of kind "attention" with its shape."""
    options = [AttentionOption("vitc", predict([cost], target).ms)]
    halves = _in_half(cost)
    if cost.dtype.startswith("int8"):
        refusal = _no_int8(cost, target)
        options.append(AttentionOption("TensorRT INT8 fused", None if refusal else predict([cost], target).ms, refusal))
    options.append(AttentionOption("TensorRT FP16 fused", predict([halves], target).ms))
    options.append(AttentionOption("TensorRT FP16 not fused", predict(_not_fused(halves), target).ms))
    return tuple(options)


def _in_half(cost: OpCost) -> OpCost:
    """The same attention with FP16 in and out: an INT8 border is twice as wide there."""
    if not cost.dtype.startswith("int8"):
        return cost
    return replace(cost, dtype="fp16", bytes_read=2 * cost.bytes_read, bytes_written=2 * cost.bytes_written)


def _no_int8(cost: OpCost, target: Target) -> str:
    _, queries, keys, head_dim = cost.attention_shape
    if target.compute_capability == _ORIN:
        return "none is chosen on Orin (NVIDIA/TensorRT#4167)"
    if head_dim not in _INT8_HEAD_DIMS:
        return f"it has heads of {', '.join(map(str, _INT8_HEAD_DIMS))} only"
    if max(queries, keys) > _INT8_MOST_TOKENS:
        return f"it takes at most {_INT8_MOST_TOKENS} tokens"
    return ""


def _not_fused(cost: OpCost) -> Sequence[OpCost]:
    """Q·Kᵀ, softmax, P·V as three kernels: the scores go to memory and come back."""
    heads, queries, keys, head_dim = cost.attention_shape
    scores = 2.0 * heads * queries * keys
    value = 2.0 * heads * keys * head_dim
    product = replace(cost, kind="gemm", flops=cost.flops / 2)
    return (
        replace(
            product, bytes_read=cost.bytes_read - value, bytes_written=scores, shape=(heads, queries, keys, head_dim)
        ),
        replace(cost, kind="norm", flops=scores / 2, bytes_read=scores, bytes_written=scores, shape=None),
        replace(product, bytes_read=scores + value, shape=(heads, queries, head_dim, keys)),
    )
