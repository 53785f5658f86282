"""Importing this module registers every pass of vitc."""

from vitc.passes import precision, tiling
from vitc.passes.canonical import (
    batch_first,
    drop_noops,
    finish,
    fold_batch_norm,
    fold_constants,
    fuse_attention,
    merge_qkv,
    recognise_gelu,
    recognise_layer_norm,
)
from vitc.passes.quantization import quantize_int8

__all__ = [
    "batch_first", "drop_noops", "finish", "fold_batch_norm", "fold_constants", "fuse_attention", "merge_qkv",
    "precision", "quantize_int8", "recognise_gelu", "recognise_layer_norm", "tiling",
]  # fmt: skip
