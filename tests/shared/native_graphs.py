"""Quantized transformers made by hand, as vitc lowers them, in sizes of one's own."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from onnx import helper
from small_models import Graph

from vitc.lowering.onnx.functions import Signature, attention_function


class Blocks(Graph):
    """A Graph with the patterns of a quantized block. Steps are chosen for inputs of about unit size."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.rng = np.random.default_rng(seed)

    def norm(self, x: str, width: int) -> str:
        gain, bias = self.rng.uniform(0.5, 1.5, width), self.rng.normal(size=width)
        return self.op("LayerNormalization", [x, self.const(gain), self.const(bias)], axis=-1, epsilon=1e-6)

    def linear(self, integers: str, step: float, k: int, n: int) -> str:
        weight = self.rng.integers(-127, 128, (k, n))
        steps = self.rng.uniform(0.5, 1.5, n) / 127 / np.sqrt(k)
        w = self.op("DequantizeLinear", [self.const(weight, "int8"), self.const(steps)], axis=1)
        product = self.op("MatMul", [self.dequantize(integers, step), w])
        return self.op("Add", [product, self.const(self.rng.normal(size=n))])

    def int8_attention(self, integers: str, heads: int, dim: int, step: float, out: float) -> str:
        """With scales of its own for each head of q, k and v."""
        signature = Signature("packed", False, False, True, torch.int8, None, by_head=True)
        factors = self.rng.uniform(0.5, 1, 3 * heads).tolist()
        self.functions = [attention_function(signature, "", 20)]
        return self.op(
            "VitAttention", [integers], "vitc", layout="packed", num_heads=heads, head_dim=dim, scale=dim**-0.5,
            has_bias=0, tile_q=64, tile_k=64, pv="int8", q_scale=step, k_scale=step, v_scale=step, out_scale=out,
            head_scales=factors,
            plugin_namespace="vitc", plugin_version="1",
        )  # fmt: skip

    def block(
        self, x: str, heads: int, dim: int, hidden: int, layer_scale: bool = False, approximate: str = "none"
    ) -> str:
        width = heads * dim
        qkv = self.linear(self.quantize(self.norm(x, width), 0.03), 0.03, width, 3 * width)
        mixed = self.int8_attention(self.quantize(qkv, 0.05), heads, dim, 0.05, 0.02)
        branch = self.linear(mixed, 0.02, width, width)
        if layer_scale:
            branch = self.op("Mul", [branch, self.const(self.rng.uniform(0.1, 1, width))])
        x = self.op("Add", [x, branch])
        up = self.linear(self.quantize(self.norm(x, width), 0.03), 0.03, width, hidden)
        gelu = self.op("Gelu", [up], approximate=approximate)
        down = self.linear(self.quantize(gelu, 0.02), 0.02, hidden, width)
        return self.op("Add", [x, down])


def transformer(
    tokens: int = 5,
    heads: int = 2,
    dim: int = 16,
    hidden: int = 64,
    depth: int = 2,
    between: str | None = None,
    **options: object,
) -> onnx.ModelProto:
    """x [batch, tokens, width] -> embedding, blocks (an operator `between` them), mean over the tokens, head."""
    g = Blocks()
    width = heads * dim
    x = g.op("Add", ["x", g.const(g.rng.normal(size=(tokens, width)))])
    for i in range(depth):
        if between is not None and i:
            x = g.op(between, [x])
        x = g.block(x, heads, dim, hidden, **options)  # type: ignore[arg-type]
    pooled = g.op("ReduceMean", [x, g.const([1], "int64")], keepdims=0)
    out = g.op("MatMul", [pooled, g.const(g.rng.normal(size=(width, 10)) / np.sqrt(width))])
    return onnx.load_model_from_string(g.model({"x": ["batch", tokens, width]}, out, ["batch", 10]))


def changed(proto: onnx.ModelProto, op_type: str, **changes: object) -> onnx.ModelProto:
    """The model with attributes of every node of a kind changed."""
    for node in proto.graph.node:
        if node.op_type == op_type:
            kept = [a for a in node.attribute if a.name not in changes]
            del node.attribute[:]
            node.attribute.extend([*kept, *(helper.make_attribute(k, v) for k, v in changes.items())])
    return proto
