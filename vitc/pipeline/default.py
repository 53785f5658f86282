"""The default pipeline, read top to bottom."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vitc.pipeline.base import Pass
from vitc.pipeline.text import parse_pipeline

if TYPE_CHECKING:
    from vitc.targets import Target

#: captured → canonical. Each name is one file in passes/canonical/.
CANONICAL = (
    "drop-noops",  # first: the others match without dropout and copies in between
    "fold-constants",  # masks and position embeddings become weights
    "fold-batch-norm",
    "fold-layer-scale",
    "recognise-gelu",
    "recognise-layer-norm",
    "batch-first",  # nn.MultiheadAttention's [N, B, C]
    "drop-noops",
    "fuse-attention",  # every spelling → scaled_dot_product_attention
    "attention-4d",  # windows and merged heads
    "simplify-mask",
    "fold-constants",  # the biases they made
    "merge-qkv",  # three linears → one
    "order-qkv",  # one linear, sorted q, k, v
    "canonical",
)


def structure_passes(prune: Pass | None = None, attention: Pass | None = None) -> tuple[Pass, ...]:
    """captured → tiled: exact, but for a pass that prunes and one that makes attention local."""
    return (
        *parse_pipeline(",".join(CANONICAL)),
        *((prune,) if prune else ()),  # features are followed through canonical spellings, and tiles fit what is left
        *parse_pipeline("tile-attention"),
        *((attention,) if attention else ()),
    )


def precision_passes(target: Target, int8: bool, int8_attention: bool) -> tuple[Pass, ...]:
    """tiled → what the target computes with. `int8_attention`: its engine takes attention in INT8."""
    names = []
    if int8:
        border = "" if int8_attention else "{attention=false}"
        names.append(f"smooth-activations{border}")  # before the ranges are measured: it changes them
        names.append(f"quantize-int8{border}")
    if target.default_precision == "fp16":
        names.append("to-fp16")
    return parse_pipeline(",".join(names))


def default_pipeline(target: Target, int8: bool) -> tuple[Pass, ...]:
    """The passes for a target; on a CPU for its library engines, which have no INT8 attention."""
    return (*structure_passes(), *precision_passes(target, int8, target.kind != "cpu"))
