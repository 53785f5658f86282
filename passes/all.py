"""Importing this module registers every pass of vitc."""

from vitc.passes import precision, tiling, window
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
    recognise_gelu,
    recognise_layer_norm,
    simplify_mask,
)
from vitc.passes.pruning import prune
from vitc.passes.quantization import quantize_int8, smooth, tune_int8

__all__ = [
    "attention_4d", "batch_first", "canonical", "drop_noops", "fold_batch_norm", "fold_constants", "fold_layer_scale",
    "fuse_attention", "merge_qkv", "order_qkv", "precision", "prune", "quantize_int8", "recognise_gelu",
    "recognise_layer_norm", "simplify_mask", "smooth", "tiling", "tune_int8", "window",
]  # fmt: skip
