"""Importing this module registers every pass of vitc."""

from vitc.passes.canonical import (
    attention_4d,
    batch_first,
    canonical,
    drop_noops,
    fold_batch_norm,
    fold_constants,
    fold_layer_scale,
    fuse_attention,
    merge_qkv,
    order_qkv,
    recognize_gelu,
    recognize_layer_norm,
    simplify_mask,
)
from vitc.passes.pruning import prune
from vitc.passes.quantization import quantize_int8, smooth_activations, to_fp16, tune_int8
from vitc.passes.tiling import tile_attention, window_attention

__all__ = [
    "attention_4d", "batch_first", "canonical", "drop_noops", "fold_batch_norm", "fold_constants", "fold_layer_scale",
    "fuse_attention", "merge_qkv", "order_qkv", "prune", "quantize_int8", "recognize_gelu", "recognize_layer_norm",
    "simplify_mask", "smooth_activations", "tile_attention", "to_fp16", "tune_int8", "window_attention",
]  # fmt: skip
