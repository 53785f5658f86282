"""One operation's figures, whoever counted them, and the block of the model it belongs to."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from vitc.errors import InternalError

Kind = Literal["gemm", "conv", "attention", "elementwise", "norm", "copy"]
Dtype = Literal["int8", "int8+fp16", "fp16", "fp32"]

# timm: blocks.3, layers.0.blocks.1; transformers: encoder.layer.3; torchvision: encoder_layer_3,
# features.1.0; CLIP: resblocks.3. The last match counts, so Swin's blocks win over its stages.
_BLOCK = re.compile(
    r"(?:^|\.)(?:(?:blocks?|layers?|stages?|features|resblocks)(?:\.\d+)+|\w*(?:layer|block)s?_\d+)(?=\.|$)"
)


@dataclass(frozen=True)
class OpCost:
    """What one operation of the graph does, for the batch it will run at.

    `flops` counts a multiply-add as two. `bytes_read` and `bytes_written` are activations in the dtypes they
    are stored in, `weight_bytes` the parameters read. `dtype` is that of the arithmetic; "int8+fp16" is
    attention with QKᵀ in INT8 and P·V in FP16, half of the operations each.
    `shape` is (batch, rows, columns, depth): for gemm and conv the product [rows, depth] x [depth, columns],
    for attention (B·H, N, M, D). It lets the model see that few tiles leave SMs idle; without it the device
    counts as filled. `fused_into_previous`: runs inside the kernel of the record before it, in registers.
    """

    name: str
    module: str  # the user's module path, "" at the top
    kind: Kind
    dtype: Dtype
    flops: float
    bytes_read: float
    bytes_written: float
    weight_bytes: float = 0.0
    shape: tuple[int, int, int, int] | None = None
    fused_into_previous: bool = False

    @property
    def attention_shape(self) -> tuple[int, int, int, int]:
        """(B·H, N, M, D). Raises InternalError if this is not the record of an attention."""
        if self.kind != "attention" or self.shape is None:
            raise InternalError(f"the record of {self.name!r} is of kind {self.kind!r}, or has no shape")
        return self.shape


def block_of(module: str) -> str:
    """The block a module path belongs to: "blocks.3.attn.qkv" -> "blocks.3", "head.fc" -> "head".

    >>> block_of("encoder.layers.encoder_layer_11.mlp.0"), block_of("layers.2.blocks.5.attn"), block_of("")
    ('encoder.layers.encoder_layer_11', 'layers.2.blocks.5', '(model)')
    """
    matches = list(_BLOCK.finditer(module))
    if matches:
        return module[: matches[-1].end()]
    return module.split(".")[0] or "(model)"
