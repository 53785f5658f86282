"""The default pipeline, read top to bottom."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vitc.graph.program import Program
from vitc.pipeline.base import Pass
from vitc.pipeline.manager import run_pipeline
from vitc.pipeline.text import parse_pipeline

if TYPE_CHECKING:
    from vitc.targets import Target

#: captured → canonical. Each name is one file in passes/canonical/.
CANONICAL = (
    "drop-noops",  # first: the others match without dropout and copies in between
    "fold-constants",  # masks and position embeddings become weights
    "fold-batch-norm",
    "fold-layer-scale",
    "recognize-gelu",
    "recognize-layer-norm",
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


def canonical_passes() -> tuple[Pass, ...]:
    """captured → canonical."""
    return parse_pipeline(",".join(CANONICAL))


def canonical(program: Program) -> Program:
    """A captured program at stage 'canonical'."""
    return run_pipeline(program, canonical_passes())


def structure_passes(attention: Pass | None = None) -> tuple[Pass, ...]:
    """captured → tiled: exact, but for a pass that makes attention local."""
    return (
        *canonical_passes(),
        *parse_pipeline("tile-attention"),
        *((attention,) if attention else ()),
    )


def precision_passes(target: Target, quantize: str | None, int8_attention: bool) -> tuple[Pass, ...]:
    """tiled → what the target computes with. `quantize`: the text of quantize-int8 with its options, None for no INT8.
    `int8_attention`: the target's engine takes attention in INT8."""
    passes: tuple[Pass, ...] = ()
    if quantize is not None:
        # Smoothing stands before the ranges are measured: it changes them.
        passes = parse_pipeline(f"smooth-activations,{quantize}")
        if not int8_attention:
            passes = tuple(replace(item, attention=False) for item in passes)  # type: ignore[type-var]
    return (*passes, *parse_pipeline("to-fp16" if target.default_precision == "fp16" else ""))


def default_pipeline(target: Target, int8: bool) -> tuple[Pass, ...]:
    """The passes for a target; on a CPU for its library engines, which have no INT8 attention."""
    return (*structure_passes(), *precision_passes(target, "quantize-int8" if int8 else None, target.kind != "cpu"))
