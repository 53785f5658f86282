"""Small ONNX models with a vitc::VitAttention in them, made by hand."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from vitc.lowering.onnx.functions import Signature, attention_function

TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "int8": TensorProto.INT8}
HEADS, DIM = 3, 8
WIDTH = HEADS * DIM


class Graph:
    """Nodes and initializers, gathered."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self.functions: list[onnx.FunctionProto] = []

    def const(self, value: object, dtype: str = "float32") -> str:
        name = f"c{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def op(self, kind: str, inputs: list[str], domain: str = "", **attributes: object) -> str:
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, domain=domain, **attributes))
        return name

    def quantize(self, x: str, scale: float, dtype: str = "float32") -> str:
        return self.op("QuantizeLinear", [x, self.const(scale, dtype), self.const(0, "int8")])

    def dequantize(self, x: str, scale: float, dtype: str = "float32") -> str:
        return self.op("DequantizeLinear", [x, self.const(scale, dtype)])

    def attention(
        self,
        inputs: list[str],
        layout: str = "packed",
        has_bias: bool = False,
        windows: bool = False,
        scale_in: float = 0.0,
        scale_out: float = 0.0,
        out_type: torch.dtype = torch.float32,
    ) -> str:
        signature = Signature(
            layout,
            has_bias,
            windows,
            scale_in > 0,
            torch.int8 if scale_out > 0 else out_type,
            out_type if has_bias else None,
        )
        self.functions = [attention_function(signature, "", 20)]
        return self.op(
            "VitAttention",
            inputs,
            domain="vitc",
            layout=layout,
            num_heads=HEADS,
            head_dim=DIM,
            scale=DIM**-0.5,
            has_bias=int(has_bias),
            tile_q=64,
            tile_k=64,
            pv="int8",
            q_scale=scale_in,
            k_scale=scale_in,
            v_scale=scale_in,
            out_scale=scale_out,
            head_scales=[1.0],
            plugin_namespace="vitc",
            plugin_version="1",
        )

    def model(
        self, inputs: dict[str, list[int | str]], output: str, shape: list[int | str], dtype: str = "float32"
    ) -> bytes:
        self.nodes.append(helper.make_node("Identity", [output], ["y"], name="y"))
        graph = helper.make_graph(
            self.nodes,
            "small",
            [helper.make_tensor_value_info(name, TYPES[dtype], dims) for name, dims in inputs.items()],
            [helper.make_tensor_value_info("y", TYPES[dtype], shape)],
            self.tensors,
        )
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid("vitc", 1)]
        model = helper.make_model(graph, opset_imports=opsets, functions=self.functions, ir_version=9)
        onnx.checker.check_model(model)
        return model.SerializeToString()


def block(tokens: int = 5, dtype: str = "float32", attention_scale: float = 0.0, seed: int = 0) -> bytes:
    """x [batch, tokens, WIDTH] -> linear -> VitAttention (packed) -> linear -> + x. Output y, as x."""
    rng = np.random.default_rng(seed)
    g = Graph()
    qkv = g.op("MatMul", ["x", g.const(rng.normal(0, 0.3, (WIDTH, 3 * WIDTH)), dtype)])
    out_type = torch.float16 if dtype == "float16" else torch.float32
    if attention_scale:
        qkv = g.quantize(qkv, attention_scale, dtype)
        mixed = g.attention([qkv], scale_in=attention_scale, scale_out=0.02, out_type=out_type)
        mixed = g.dequantize(mixed, 0.02, dtype)
    else:
        mixed = g.attention([qkv], out_type=out_type)
    out = g.op("MatMul", [mixed, g.const(rng.normal(0, 0.3, (WIDTH, WIDTH)), dtype)])
    return g.model({"x": ["batch", tokens, WIDTH]}, g.op("Add", [out, "x"]), ["batch", tokens, WIDTH], dtype)


def attention_reference(q: np.ndarray, k: np.ndarray, v: np.ndarray, bias: np.ndarray | float = 0.0) -> np.ndarray:
    """Plain attention in FP64: q, k, v [B, H, N, D] -> [B, N, H*D]."""
    scores = q.astype(np.float64) @ k.astype(np.float64).swapaxes(-1, -2) * DIM**-0.5 + bias
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = scores / scores.sum(-1, keepdims=True) @ v.astype(np.float64)
    return mixed.transpose(0, 2, 1, 3).reshape(q.shape[0], q.shape[2], -1)


def heads(x: np.ndarray) -> np.ndarray:
    """[B, N, H*D] -> [B, H, N, D]."""
    return x.reshape(*x.shape[:2], HEADS, DIM).transpose(0, 2, 1, 3)
