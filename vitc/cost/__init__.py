"""What a graph should cost on a device, from its operations' own figures. No engine is opened here.

>>> from vitc import targets
>>> from vitc.cost import OpCost, predict
>>> gemm = OpCost("fc1", "blocks.0.mlp.fc1", "gemm", "int8", flops=2 * 197 * 768 * 3072,
...               bytes_read=197 * 768, bytes_written=197 * 3072, weight_bytes=768 * 3072,
...               shape=(1, 197, 3072, 768))
>>> predict([gemm], targets.load("orin")).blocks[0].name
'blocks.0'

count       one record for each operator of a graph; the only module here that imports torch
records     the figures of one operation
model       records become predicted times
prediction  the result, by operation, by block and in total
attention   what TensorRT could do with one attention instead of vitc's kernel
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
