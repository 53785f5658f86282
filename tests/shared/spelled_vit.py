"""A ViT written straight into ONNX, in each of the spellings that vitc's emitter had to choose between.

Not the emitter: an independent hand that asks TensorRT what it makes of a spelling. Weights are random.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from vitc.kernels.fields import AttentionFields

ACTIVATION_SCALE = 0.05
Dtype = Literal["float16", "float32"]


@dataclass(frozen=True)
class Spelling:
    """How one model is written. The defaults are what vitc emits for a GPU target with calibration data."""

    int8: bool = True
    linear: Literal["matmul", "gemm", "matmul_transposed", "matmul_wrong_axis"] = "matmul"
    activation_scales: Dtype = "float32"
    weight_scales: Dtype = "float32"
    """Float type of the Q/DQ scales; where it is not the tensor's own there is a Cast beside it."""
    linear_dtype: Dtype = "float32"
    """Type of MatMul, the bias Add behind it and GELU."""
    residual: Dtype = "float32"
    norm: Dtype = "float32"
    """Type of LayerNormalization."""
    patch_int8: bool = False
    patch_dtype: Dtype = "float32"
    attention: Literal["packed", "bnhd", "bhnd"] = "packed"
    attention_int8: bool = True
    attention_dtype: Dtype = "float16"
    """Type of the attention's floating-point inputs, output and bias."""
    attention_out_int8: bool = True
    bias: Literal["none", "initializer", "computed"] = "none"
    body: bool = True
    """Whether VitAttention is declared as a model-local function."""
    overloads: bool = False
    """Two forms of VitAttention in one model, told apart by the function's overload (IR 10)."""
    quantize_residual: bool = False
    gelu: Literal["op", "erf"] = "op"

    depth: int = 2
    width: int = 192
    heads: int = 3
    tokens_side: int = 14


def node_path(module_path: str) -> str:
    """blocks.0.attn.qkv -> /blocks.0/attn/qkv, the start of the names of that module's nodes."""
    return "/" + re.sub(r"\.(?!\d)", "/", module_path)


@dataclass
class Writer:
    """Collects nodes and initializers."""

    spelling: Spelling
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def op(self, op_type: str, inputs: list[str], name: str, output: str | None = None, **attributes: object) -> str:
        output = output or f"{name}_output_0"
        self.nodes.append(helper.make_node(op_type, inputs, [output], name=name, **attributes))
        return output

    def constant(self, name: str, value: np.ndarray) -> str:
        if name not in {tensor.name for tensor in self.initializers}:
            self.initializers.append(numpy_helper.from_array(np.array(value, order="C"), name))
        return name

    def weights(self, *shape: int) -> np.ndarray:
        return self.random.standard_normal(shape) * 0.02

    def cast(self, x: str, dtype: str, name: str, output: str | None = None) -> str:
        return self.op("Cast", [x], name, output, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def as_type(self, x: str, have: str, want: str, name: str) -> str:
        """`x` in type `want`: a Cast where it is in another."""
        return x if have == want else self.cast(x, want, name)

    def quantize(self, x: str, have: str, name: str) -> str:
        scales = self.spelling.activation_scales
        x = self.as_type(x, have, scales, f"{name}/Cast")
        return self.op("QuantizeLinear", [x, self.scale(name), self.zero()], f"{name}/QuantizeLinear")

    def dequantize(self, x: str, want: str, name: str) -> str:
        y = self.op("DequantizeLinear", [x, self.scale(name), self.zero()], f"{name}/DequantizeLinear")
        return self.as_type(y, self.spelling.activation_scales, want, f"{name}/DequantizeLinear/Cast")

    def scale(self, name: str) -> str:
        return self.constant(f"{name}.scale", np.array(ACTIVATION_SCALE, self.spelling.activation_scales))

    def zero(self) -> str:
        return self.constant("zero_point", np.array(0, np.int8))

    def int8_weight(self, name: str, values: np.ndarray, axis: int, want: str) -> str:
        """int8 initializer → DequantizeLinear along `axis`, one scale per slice of that axis."""
        others = tuple(i for i in range(values.ndim) if i != axis)
        scale = np.abs(values).max(axis=others, keepdims=True) / 127
        quantized = np.clip(np.rint(values / scale), -127, 127).astype(np.int8)
        stored = self.constant(f"{name}.weight", quantized)
        scales = self.constant(f"{name}.weight.scale", scale.reshape(-1).astype(self.spelling.weight_scales))
        zeros = self.constant(f"{name}.weight.zero", np.zeros(values.shape[axis], np.int8))
        node = f"{node_path(name)}/weight/DequantizeLinear"
        y = self.op("DequantizeLinear", [stored, scales, zeros], node, axis=axis)
        return self.as_type(y, self.spelling.weight_scales, want, f"{node}/Cast")

    def linear(self, x: str, path: str, fan_in: int, fan_out: int, have: str) -> str:
        """y = x W + b in `linear_dtype`, W [in, out]. `have` is the type of x; "int8": quantized already."""
        s, name, dtype = self.spelling, node_path(path), self.spelling.linear_dtype
        values = self.weights(fan_in, fan_out)
        bias = self.constant(f"{path}.bias", self.weights(fan_out).astype(dtype))
        if s.int8:
            x = x if have == "int8" else self.quantize(x, have, f"{name}/input")
            x = self.dequantize(x, dtype, f"{name}/input")
        else:
            x = self.as_type(x, have, dtype, f"{name}/Cast")
        if not s.int8:
            w = self.constant(f"{path}.weight", values.astype(dtype))
        elif s.linear == "matmul":
            w = self.int8_weight(path, values, 1, dtype)
        elif s.linear == "matmul_wrong_axis":
            w = self.int8_weight(path, values, 0, dtype)
        elif s.linear == "matmul_transposed":
            w = self.op("Transpose", [self.int8_weight(path, values.T, 0, dtype)], f"{name}/Transpose", perm=[1, 0])
        else:
            w = self.int8_weight(path, values.T, 0, dtype)
        if s.linear != "gemm" or not s.int8:
            y = self.op("MatMul", [x, w], f"{name}/MatMul")
            return self.op("Add", [y, bias], f"{name}/Add")
        tokens = s.tokens_side**2 + 1
        flat = self.constant(f"shape_{fan_in}", np.array([-1, fan_in], np.int64))
        full = self.constant(f"shape_{tokens}_{fan_out}", np.array([-1, tokens, fan_out], np.int64))
        y = self.op("Reshape", [x, flat], f"{name}/Reshape")
        y = self.op("Gemm", [y, w, bias], f"{name}/Gemm", transB=1)
        return self.op("Reshape", [y, full], f"{name}/Reshape_1")

    def norm(self, x: str, path: str) -> str:
        """LayerNormalization of the residual stream, in `norm`."""
        s, name = self.spelling, node_path(path)
        x = self.as_type(x, s.residual, s.norm, f"{name}/Cast")
        gamma = self.constant(f"{path}.weight", (1 + self.weights(s.width)).astype(s.norm))
        beta = self.constant(f"{path}.bias", self.weights(s.width).astype(s.norm))
        return self.op("LayerNormalization", [x, gamma, beta], f"{name}/LayerNormalization", axis=-1, epsilon=1e-6)

    def gelu(self, x: str, name: str) -> str:
        if self.spelling.gelu == "op":
            return self.op("Gelu", [x], f"{name}/Gelu", approximate="none")
        half, one, root = (
            self.constant(f"gelu_{i}", np.array(v, self.spelling.linear_dtype))
            for i, v in enumerate((0.5, 1.0, 2**0.5))
        )
        y = self.op("Erf", [self.op("Div", [x, root], f"{name}/Div")], f"{name}/Erf")
        y = self.op("Mul", [x, self.op("Add", [y, one], f"{name}/Add")], f"{name}/Mul")
        return self.op("Mul", [y, half], f"{name}/Mul_1")

    def add_residual(self, x: str, y: str, name: str) -> str:
        s = self.spelling
        if s.quantize_residual:
            y = self.dequantize(self.quantize(y, s.linear_dtype, name), s.residual, name)
        else:
            y = self.as_type(y, s.linear_dtype, s.residual, f"{name}/Cast")
        return self.op("Add", [x, y], f"{name}/Add")

    def attention(self, x: str, block: int) -> str:
        """The attention of one block without its projection; INT8 or in `attention_dtype`."""
        s, name, path = self.spelling, f"/blocks.{block}/attn", f"blocks.{block}.attn"
        fields = attention_fields(s)
        if s.attention == "packed":
            inputs = [self.linear(x, f"{path}.qkv", s.width, 3 * s.width, s.norm)]
        else:
            inputs = [self.linear(x, f"{path}.{part}", s.width, s.width, s.norm) for part in "qkv"]
        if s.attention == "bhnd":
            shape = self.constant("heads", np.array([0, 0, s.heads, s.width // s.heads], np.int64))
            inputs = [self.op("Reshape", [t, shape], f"{name}/Reshape_{i}") for i, t in enumerate(inputs)]
            inputs = [
                self.op("Transpose", [t], f"{name}/Transpose_{i}", perm=[0, 2, 1, 3]) for i, t in enumerate(inputs)
            ]
        if fields.int8_in:
            inputs = [
                self.quantize(t, s.linear_dtype, f"{name}/{part}")
                for t, part in zip(inputs, fields.input_names, strict=False)
            ]
        else:
            inputs = [
                self.as_type(t, s.linear_dtype, s.attention_dtype, f"{name}/Cast_{i}") for i, t in enumerate(inputs)
            ]
        tokens = s.tokens_side**2 + 1
        if s.bias != "none":
            table = self.constant(f"{path}.bias", self.weights(1, s.heads, tokens, tokens).astype(s.attention_dtype))
            if s.bias == "computed":
                half = self.constant("half", np.array(0.5, s.attention_dtype))
                table = self.op("Mul", [table, half], f"{name}/bias/Mul")
            inputs.append(table)
        overload = {"overload": form(fields)} if s.overloads else {}
        return self.op(
            "VitAttention",
            inputs,
            f"{name}/VitAttention",
            domain="vitc",
            plugin_namespace="vitc",
            plugin_version="1",
            **fields.to_attributes(),
            **overload,
        )


def attention_fields(s: Spelling) -> AttentionFields:
    int8_in = s.int8 and s.attention_int8
    scale = ACTIVATION_SCALE if int8_in else 0.0
    head_dim = s.width // s.heads
    return AttentionFields(
        layout=s.attention,
        num_heads=s.heads,
        head_dim=head_dim,
        scale=head_dim**-0.5,
        has_bias=int(s.bias != "none"),
        tile_q=64,
        tile_k=64,
        pv="int8",
        q_scale=scale,
        k_scale=scale,
        v_scale=scale,
        out_scale=ACTIVATION_SCALE if s.int8 and s.attention_out_int8 else 0.0,
    )


def form(fields: AttentionFields) -> str:
    """What tells one function body from another."""
    parts = [fields.layout, "int8" if fields.int8_in else "float", "bias" if fields.has_bias else "plain"]
    return "_".join([*parts, "int8" if fields.int8_out else "float"])


def attention_function(fields: AttentionFields, s: Spelling) -> onnx.FunctionProto:
    """The standard-op body of one form of VitAttention; reading scales and sizes off the node."""
    to = helper.np_dtype_to_tensor_dtype(np.dtype(s.attention_dtype))
    nodes: list[onnx.NodeProto] = []

    def op(kind: str, inputs: list[str], *outputs: str, **attributes: object) -> str:
        node = helper.make_node(kind, inputs, list(outputs), **attributes)
        nodes.append(node)
        return outputs[0]

    def attribute(name: str, as_type: str) -> str:
        kind = {"value_float": onnx.AttributeProto.FLOAT, "value_int": onnx.AttributeProto.INT}[as_type]
        node = helper.make_node("Constant", [], [name])
        reference = node.attribute.add()
        reference.name, reference.ref_attr_name, reference.type = as_type, name, kind
        nodes.append(node)
        return name

    def vector(name: str, values: list[int]) -> str:
        return op("Constant", [], name, value_ints=values)

    parts = list(fields.input_names)[: len(fields.input_names) - fields.has_bias]
    floats = {}
    for part, scale in zip(parts, ("q_scale", "k_scale", "v_scale"), strict=False):
        floats[part] = part
        if fields.int8_in:
            step = op("Cast", [attribute(scale, "value_float")], f"{scale}_f", to=to)
            floats[part] = op("DequantizeLinear", [part, step], f"{part}_real")
    h = op("Reshape", [attribute("num_heads", "value_int"), vector("one", [1])], "h")
    d = op("Reshape", [attribute("head_dim", "value_int"), "one"], "d")
    zero = vector("zero", [0])
    if fields.layout == "packed":
        shape = op("Concat", [zero, zero, vector("three", [3]), h, d], "shape", axis=0)
        split = op("Reshape", [floats["qkv"], shape], "split")
        parted = op("Transpose", [split], "parted", perm=[2, 0, 3, 1, 4])
        for i, part in enumerate("qkv"):
            floats[part] = op("Gather", [parted, op("Constant", [], f"i{i}", value_int=i)], f"{part}4", axis=0)
    if fields.layout == "bnhd":
        shape = op("Concat", [zero, zero, h, d], "shape", axis=0)
        for part in "qkv":
            floats[part] = op(
                "Transpose", [op("Reshape", [floats[part], shape], f"{part}r")], f"{part}4", perm=[0, 2, 1, 3]
            )
    keys = op("Transpose", [floats["k"]], "keys", perm=[0, 1, 3, 2])
    scores = op("MatMul", [floats["q"], keys], "scores")
    scores = op("Mul", [scores, op("Cast", [attribute("scale", "value_float")], "scale_f", to=to)], "scaled")
    if fields.has_bias:
        scores = op("Add", [scores, "bias"], "biased")
    weights = op("Softmax", [scores], "weights", axis=-1)
    y = op("MatMul", [weights, floats["v"]], "y4")
    y = op("Transpose", [y], "y_bnhd", perm=[0, 2, 1, 3])
    y = op("Reshape", [y, op("Concat", [zero, zero, vector("rest", [-1])], "flat", axis=0)], "y")
    if fields.int8_out:
        step = op("Cast", [attribute("out_scale", "value_float")], "out_scale_f", to=to)
        y = op(
            "QuantizeLinear",
            [y, step, op("Constant", [], "zp", value=onnx.helper.make_tensor("z", 3, [], [0]))],
            "yq",
        )
    function = helper.make_function(
        "vitc",
        "VitAttention",
        list(fields.input_names),
        [y],
        nodes,
        [helper.make_opsetid("", 20)],
        attributes=["plugin_namespace", "plugin_version", *fields.to_attributes()],
    )
    if s.overloads:
        function.overload = form(fields)
    return function


def fp16(**changes: Any) -> Spelling:
    """Everything in FP16, the scales of Q/DQ too where there are any, but for `changes`."""
    types = ("activation_scales", "weight_scales", "linear_dtype", "residual", "norm", "patch_dtype")
    return Spelling(**{**dict.fromkeys(types, "float16"), **changes})


def make_vit(s: Spelling) -> onnx.ModelProto:
    """The model: image FP32 [B, 3, S*16, S*16] -> logits FP32 [B, 10], B dynamic."""
    w = Writer(s)
    size, n_patches = s.tokens_side * 16, s.tokens_side**2
    dtype = s.patch_dtype
    kernel = w.weights(s.width, 3, 16, 16)
    if s.patch_int8:
        x = w.quantize("image", "float32", "/patch_embed/proj/input")
        x = w.dequantize(x, dtype, "/patch_embed/proj/input")
        weight = w.int8_weight("patch_embed.proj", kernel, 0, dtype)
    else:
        x = w.as_type("image", "float32", dtype, "/Cast")
        weight = w.constant("patch_embed.proj.weight", kernel.astype(dtype))
    bias = w.constant("patch_embed.proj.bias", w.weights(s.width).astype(dtype))
    x = w.op("Conv", [x, weight, bias], "/patch_embed/proj/Conv", kernel_shape=[16, 16], strides=[16, 16])
    x = w.op(
        "Reshape",
        [x, w.constant("flat", np.array([0, s.width, n_patches], np.int64))],
        "/patch_embed/Reshape",
    )
    x = w.op("Transpose", [x], "/patch_embed/Transpose", perm=[0, 2, 1])
    batch = w.op("Shape", [x], "/Shape", start=0, end=1)
    rest = w.constant("rest", np.array([1, s.width], np.int64))
    shape = w.op("Concat", [batch, rest], "/Concat_shape", axis=0)
    token = w.constant("cls_token", w.weights(1, 1, s.width).astype(dtype))
    x = w.op("Concat", [w.op("Expand", [token, shape], "/Expand"), x], "/Concat", axis=1)
    x = w.op("Add", [x, w.constant("pos_embed", w.weights(1, n_patches + 1, s.width).astype(dtype))], "/Add")
    x = w.as_type(x, dtype, s.residual, "/residual/Cast")
    for i in range(s.depth):
        w.spelling = replace(s, attention_out_int8=False) if s.overloads and i % 2 else s
        y = w.attention(w.norm(x, f"blocks.{i}.norm1"), i)
        given = "int8" if attention_fields(w.spelling).int8_out else s.attention_dtype
        y = w.linear(y, f"blocks.{i}.attn.proj", s.width, s.width, given)
        x = w.add_residual(x, y, f"/blocks.{i}/residual1")
        y = w.linear(w.norm(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1", s.width, 4 * s.width, s.norm)
        y = w.gelu(y, f"/blocks.{i}/mlp/act")
        y = w.linear(y, f"blocks.{i}.mlp.fc2", 4 * s.width, s.width, s.linear_dtype)
        x = w.add_residual(x, y, f"/blocks.{i}/residual2")
    x = w.norm(x, "norm")
    x = w.op("Gather", [x, w.constant("first", np.array(0, np.int64))], "/Gather", axis=1)
    w.spelling = replace(s, linear="matmul")
    x = w.linear(x, "head", s.width, 10, s.norm)
    w.cast(x, "float32", "/Cast_logits", "logits")
    graph = helper.make_graph(
        w.nodes,
        "vit",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, size, size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        w.initializers,
    )
    functions = []
    if s.body:
        functions = [attention_function(attention_fields(s), s)]
        if s.overloads:
            other = replace(s, attention_out_int8=False)
            functions.append(attention_function(attention_fields(other), other))
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("vitc", 1)],
        functions=functions,
        ir_version=10 if s.overloads else 9,
    )
