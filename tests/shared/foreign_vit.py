"""A small ViT in plain ONNX operators, quantized the way other tools do it. Weights are random, from one seed.

Each preset imitates one tool's placement of Q/DQ, looked up in files that the tool wrote
(benchmarks/lint_foreign.py writes and lints the real ones).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import helper, numpy_helper

WIDTH, HEADS, TOKENS, CLASSES = 64, 2, 16, 16


@dataclass(frozen=True)
class Foreign:
    """What is quantized and how. `quantized` holds places: linear (activations and weights of the block's linears),
    head, patch, qk, scores, probs, v (around the attention's products), residual, norm (its input), gelu (its input),
    product (between a product and its bias)."""

    quantized: frozenset[str] = frozenset()
    dtype: str = "float32"
    weights: str = "channel"  # channel, tensor, wrong (per input channel), none (activations alone)
    activations: str = "tensor"  # tensor, channel, none (weights alone)
    stored: str = "int8"  # int8: an initializer; float: a QuantizeLinear in the graph
    asymmetric: bool = False
    unsigned_probs: bool = False
    int32_bias: bool = False
    weight_scale_dtype: str | None = None
    norm: str = "op"  # op, decomposed
    bias: bool = False  # of the attention
    transposed: bool = False  # weights [out, in] and a Transpose
    depth: int = 1


LINEAR = frozenset({"linear", "head"})
MODELOPT = Foreign(LINEAR | {"patch"}, stored="float")
MODELOPT_RESIDUAL = Foreign(LINEAR | {"patch", "residual"}, stored="float", dtype="float16")
NNCF = Foreign(LINEAR | {"patch", "qk", "probs", "v", "residual"}, unsigned_probs=False)
NNCF_TRANSFORMER = replace(NNCF, quantized=LINEAR | {"patch", "qk", "v"}, asymmetric=True)
ORT_ALL = Foreign(
    LINEAR | {"patch", "qk", "scores", "probs", "v", "residual", "norm", "gelu", "product"}, int32_bias=True
)
ORT_GEMMS = Foreign(LINEAR | {"patch", "qk", "scores", "probs", "v", "product"}, stored="float")
DECOMPOSED_HALF = Foreign(dtype="float16", norm="decomposed")


class _Writer:
    def __init__(self, style: Foreign) -> None:
        self.style = style
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.random = np.random.default_rng(0)
        self.dtype = np.dtype(style.dtype)

    def op(self, kind: str, inputs: list[str], name: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [f"{name}_out"], name=name, **attributes))
        return f"{name}_out"

    def constant(self, name: str, value: object, dtype: object = None) -> str:
        self.constants[name] = np.asarray(value, dtype or self.dtype)
        return name

    def random_weight(self, *shape: int) -> np.ndarray:
        return (self.random.standard_normal(shape) * 0.05).astype(self.dtype)

    def fake(self, x: str, name: str, place: str, last: int = 0) -> str:
        """Q → DQ where `place` is quantized."""
        if place not in self.style.quantized or self.style.activations == "none":
            return x
        per_channel = self.style.activations == "channel" and last > 0
        scale = self.constant(f"{name}/scale", np.full(last, 0.05) if per_channel else 0.05)
        unsigned = self.style.asymmetric or (self.style.unsigned_probs and place == "probs")
        zero = 3 if self.style.asymmetric else 0
        point = self.constant(
            f"{name}/zero", np.full(last, zero) if per_channel else zero, np.uint8 if unsigned else np.int8
        )
        axis = {"axis": -1} if per_channel else {}
        q = self.op("QuantizeLinear", [x, scale, point], f"{name}/QuantizeLinear", **axis)
        return self.op("DequantizeLinear", [q, scale, point], f"{name}/DequantizeLinear", **axis)

    def weight(self, name: str, value: np.ndarray, place: str, axis: int) -> str:
        style = self.style
        if place not in style.quantized or style.weights == "none":
            return self.constant(name, value)
        if style.weights == "wrong":
            axis = 1 - axis
        others = tuple(i for i in range(value.ndim) if i != axis)
        peak = np.abs(value).max() if style.weights == "tensor" else np.abs(value).max(axis=others)
        scale = self.constant(f"{name}/scale", peak / 127, style.weight_scale_dtype or style.dtype)
        zero = self.constant(f"{name}/zero", np.zeros_like(peak), np.int8)
        attributes = {} if style.weights == "tensor" else {"axis": axis}
        shape = [1] * value.ndim
        shape[axis] = -1
        if style.stored == "float":
            q = self.op(
                "QuantizeLinear", [self.constant(name, value), scale, zero], f"{name}/QuantizeLinear", **attributes
            )
        else:
            steps = np.asarray(peak / 127, np.float64).reshape(shape if peak.ndim else [1] * value.ndim)
            q = self.constant(name, np.clip(np.rint(value / steps), -127, 127), np.int8)
        return self.op("DequantizeLinear", [q, scale, zero], f"{name}/DequantizeLinear", **attributes)

    def linear(self, x: str, name: str, fan_in: int, fan_out: int, place: str = "linear") -> str:
        x = self.fake(x, f"{name}/input", place, fan_in)
        value = self.random_weight(fan_in, fan_out)
        if self.style.transposed:
            w = self.weight(f"{name}/weight", np.ascontiguousarray(value.T), place, 0)
            w = self.op("Transpose", [w], f"{name}/Transpose", perm=[1, 0])
        else:
            w = self.weight(f"{name}/weight", value, place, 1)
        y = self.op("MatMul", [x, w], f"{name}/MatMul")
        y = self.fake(y, f"{name}/product", "product")
        bias = self.constant(f"{name}/bias", self.random_weight(fan_out))
        if self.style.int32_bias:
            scale = self.constant(f"{name}/bias/scale", 1e-4)
            self.constant(f"{name}/bias/integers", np.rint(self.constants.pop(f"{name}/bias") / 1e-4), np.int32)
            zero = self.constant(f"{name}/bias/zero", 0, np.int32)
            bias = self.op("DequantizeLinear", [f"{name}/bias/integers", scale, zero], f"{name}/bias/DequantizeLinear")
        return self.op("Add", [y, bias], f"{name}/Add")

    def norm(self, x: str, name: str) -> str:
        x = self.fake(x, f"{name}/input", "norm")
        gamma = self.constant(f"{name}/weight", np.ones(WIDTH))
        beta = self.constant(f"{name}/bias", np.zeros(WIDTH))
        if self.style.norm == "op":
            return self.op("LayerNormalization", [x, gamma, beta], f"{name}/LayerNormalization", axis=-1)
        centred = self.op("Sub", [x, self.op("ReduceMean", [x], f"{name}/ReduceMean", axes=[-1])], f"{name}/Sub")
        squares = self.op("Pow", [centred, self.constant("two", 2.0)], f"{name}/Pow")
        variance = self.op("ReduceMean", [squares], f"{name}/ReduceMean_1", axes=[-1])
        root = self.op(
            "Sqrt", [self.op("Add", [variance, self.constant("epsilon", 1e-5)], f"{name}/Add")], f"{name}/Sqrt"
        )
        y = self.op("Mul", [self.op("Div", [centred, root], f"{name}/Div"), gamma], f"{name}/Mul")
        return self.op("Add", [y, beta], f"{name}/Add_1")

    def attention(self, x: str, name: str) -> str:
        qkv = self.linear(x, f"{name}/qkv", WIDTH, 3 * WIDTH)
        shape = self.constant("split", [0, TOKENS, 3, HEADS, WIDTH // HEADS], np.int64)
        qkv = self.op("Reshape", [qkv, shape], f"{name}/Reshape")
        qkv = self.op("Transpose", [qkv], f"{name}/Transpose", perm=[2, 0, 3, 1, 4])
        q, k, v = (
            self.op("Gather", [qkv, self.constant(f"index_{i}", i, np.int64)], f"{name}/Gather_{i}", axis=0)
            for i in range(3)
        )
        q = self.op("Mul", [q, self.constant("attention_scale", (WIDTH // HEADS) ** -0.5)], f"{name}/Mul")
        k = self.op("Transpose", [k], f"{name}/Transpose_1", perm=[0, 1, 3, 2])
        q, k = self.fake(q, f"{name}/q", "qk"), self.fake(k, f"{name}/k", "qk")
        scores = self.fake(self.op("MatMul", [q, k], f"{name}/MatMul"), f"{name}/scores", "scores")
        if self.style.bias:
            table = self.constant(f"{name}/table", self.random_weight(1, HEADS, TOKENS, TOKENS))
            scores = self.op("Add", [scores, table], f"{name}/Add")
        probs = self.fake(self.op("Softmax", [scores], f"{name}/Softmax", axis=-1), f"{name}/probs", "probs")
        y = self.op("MatMul", [probs, self.fake(v, f"{name}/v", "v")], f"{name}/MatMul_1")
        y = self.op("Transpose", [y], f"{name}/Transpose_2", perm=[0, 2, 1, 3])
        y = self.op("Reshape", [y, self.constant("merge", [0, TOKENS, WIDTH], np.int64)], f"{name}/Reshape_1")
        return self.linear(y, f"{name}/proj", WIDTH, WIDTH)

    def residual(self, x: str, y: str, name: str) -> str:
        x, y = self.fake(x, f"{name}/left", "residual"), self.fake(y, f"{name}/right", "residual")
        return self.op("Add", [x, y], name)

    def block(self, x: str, name: str) -> str:
        x = self.residual(x, self.attention(self.norm(x, f"{name}/norm1"), f"{name}/attn"), f"{name}/Add")
        y = self.linear(self.norm(x, f"{name}/norm2"), f"{name}/mlp/fc1", WIDTH, 2 * WIDTH)
        y = self.op("Gelu", [self.fake(y, f"{name}/mlp/act/input", "gelu")], f"{name}/mlp/act/Gelu")
        y = self.linear(y, f"{name}/mlp/fc2", 2 * WIDTH, WIDTH)
        return self.residual(x, y, f"{name}/Add_1")


def foreign_vit(style: Foreign) -> onnx.ModelProto:
    """image [1, 3, 32, 32] → y [1, 16], both in the model's own dtype."""
    w = _Writer(style)
    kernel = w.weight("patch_embed/weight", w.random_weight(WIDTH, 3, 8, 8), "patch", 0)
    x = w.op(
        "Conv",
        [w.fake("image", "/patch_embed/input", "patch"), kernel],
        "/patch_embed/Conv",
        kernel_shape=[8, 8],
        strides=[8, 8],
    )
    x = w.op("Reshape", [x, w.constant("flat", [0, WIDTH, TOKENS], np.int64)], "/patch_embed/Reshape")
    x = w.op("Transpose", [x], "/patch_embed/Transpose", perm=[0, 2, 1])
    for i in range(style.depth):
        x = w.block(x, f"/blocks.{i}")
    x = w.op("ReduceMax", [w.norm(x, "/norm"), w.constant("tokens", [1], np.int64)], "/ReduceMax", keepdims=0)
    w.linear(x, "/head", WIDTH, CLASSES, "head")
    w.nodes[-1].output[0] = "y"
    kind = helper.np_dtype_to_tensor_dtype(w.dtype)
    graph = helper.make_graph(
        w.nodes,
        "foreign",
        [helper.make_tensor_value_info("image", kind, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("y", kind, [1, CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in w.constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    # ReduceMean's axes became an input in opset 18.
    for node in model.graph.node:
        if node.op_type == "ReduceMean":
            del node.attribute[:]
            node.input.append("last")
    if style.norm == "decomposed":
        model.graph.initializer.append(numpy_helper.from_array(np.array([-1], np.int64), "last"))
    onnx.checker.check_model(model, full_check=style.weight_scale_dtype is None)
    return model
