"""What a graph should cost on a device, from its operations' own figures. Pure data, no torch.

>>> from vitc import targets
>>> from vitc.cost import OpCost, predict
>>> gemm = OpCost("fc1", "blocks.0.mlp.fc1", "gemm", "int8", flops=2 * 197 * 768 * 3072,
...               bytes_read=197 * 768, bytes_written=197 * 3072, weight_bytes=768 * 3072,
...               shape=(1, 197, 3072, 768))
>>> predict([gemm], targets.load("orin")).blocks[0].name
'blocks.0'
"""

from __future__ import annotations

from vitc.cost.attention import AttentionOption, attention_options
from vitc.cost.model import predict
from vitc.cost.prediction import BlockPrediction, OpPrediction, Prediction
from vitc.cost.records import OpCost, block_of

__all__ = [
    "AttentionOption",
    "BlockPrediction",
    "OpCost",
    "OpPrediction",
    "Prediction",
    "attention_options",
    "block_of",
    "predict",
]
