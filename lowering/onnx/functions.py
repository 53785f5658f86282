"""The body of vitc::VitAttention in standard ONNX operators, as a model-local function.

One FunctionProto serves every attention of the same form; what differs between layers (heads, scales) are attributes
the body refers to. Several forms in one model are overloads (ONNX IR 10). A model checker accepts the node, a CPU
engine inlines it, TensorRT takes the plugin of the same name where `plugin_namespace` says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from onnx import AttributeProto, TensorProto, helper

from vitc.kernels.fields import attention_spec

_VALUE_OF = {
    AttributeProto.FLOAT: "value_float",
    AttributeProto.FLOATS: "value_floats",
    AttributeProto.INT: "value_int",
}
_TYPES = {torch.float32: TensorProto.FLOAT, torch.float16: TensorProto.FLOAT16}


@dataclass(frozen=True)
class Signature:
    """What changes the body of the function."""

    layout: str
    has_bias: bool
    windows: bool  # the bias has a row for each window
    int8_in: bool
    out_type: torch.dtype
    bias_type: torch.dtype | None
    by_head: bool = False  # each head has scales of its own
    causal: bool = False  # query i sees keys 0 to i alone


class _Body:
    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []

    def op(self, op_type: str, inputs: list[str], **attributes: Any) -> str:
        return self.ops(op_type, inputs, 1, **attributes)[0]

    def ops(self, op_type: str, inputs: list[str], outputs: int, **attributes: Any) -> list[str]:
        names = [f"t{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op_type, inputs, names, **attributes))
        return names

    def ints(self, values: list[int]) -> str:
        return self.op("Constant", [], value_ints=values)

    def attribute(self, field: str, kind: AttributeProto.AttributeType) -> str:
        """A function attribute as a tensor: a scalar, or [n] for FLOATS."""
        name = f"t{len(self.nodes)}_0"
        node = helper.make_node("Constant", [], [name])
        slot = node.attribute.add()
        slot.name = _VALUE_OF[kind]
        slot.ref_attr_name = field
        slot.type = kind
        self.nodes.append(node)
        return name

    def sizes(self, *parts: list[int] | str) -> str:
        """A shape from literal sizes and integer attributes."""
        names = []
        for part in parts:
            if isinstance(part, str):
                one = self.attribute(part, AttributeProto.INT)
                names.append(self.op("Reshape", [one, self.ints([1])]))
            else:
                names.append(self.ints(part))
        return self.op("Concat", names, axis=0)


def attention_function(signature: Signature, overload: str, opset: int) -> onnx.FunctionProto:
    """The FunctionProto of one form. All arithmetic between an INT8 input and the output is FP32."""
    spec = attention_spec()
    body = _Body()
    inputs = list(spec.layouts[signature.layout]) + (["bias"] if signature.has_bias else [])
    compute = torch.float32 if signature.int8_in else signature.out_type
    q, k, v = (
        _real(body, t, f"{name}_scale", signature) for name, t in zip("qkv", _operands(body, signature), strict=True)
    )
    if signature.by_head:
        q, k, v = (body.op("Mul", [t, f]) for t, f in zip((q, k, v), _head_factors(body), strict=True))
    factor = body.attribute("scale", AttributeProto.FLOAT)
    if compute != torch.float32:
        factor = body.op("Cast", [factor], to=_TYPES[compute])
    keys = body.op("Transpose", [k], perm=[0, 1, 3, 2])
    scores = body.op("MatMul", [body.op("Mul", [q, factor]), keys])
    if signature.has_bias:
        scores = _add_bias(body, scores, compute, signature)
    if signature.causal:
        scores = _hide_later_keys(body, scores, compute)
    mixed = body.op("MatMul", [body.op("Softmax", [scores], axis=-1), v])
    merged = body.op("Reshape", [body.op("Transpose", [mixed], perm=[0, 2, 1, 3]), body.ints([0, 0, -1])])
    if signature.out_type == torch.int8:
        zero = body.op("Cast", [body.op("Constant", [], value_int=0)], to=TensorProto.INT8)
        merged = body.op("QuantizeLinear", [merged, body.attribute("out_scale", AttributeProto.FLOAT), zero])
    elif signature.out_type != compute:
        merged = body.op("Cast", [merged], to=_TYPES[signature.out_type])
    body.nodes.append(helper.make_node("Identity", [merged], ["out"]))
    attributes = [f.name for f in spec.fields] + ["plugin_namespace", "plugin_version"]
    function = helper.make_function(
        spec.domain, spec.name, inputs, ["out"], body.nodes, [helper.make_opsetid("", opset)], attributes
    )
    if overload:
        function.overload = overload
    return function


def _operands(body: _Body, signature: Signature) -> list[str]:
    """q, k and v as [B, H, N, D], still in the input's type."""
    if signature.layout == "bhnd":
        return ["q", "k", "v"]
    if signature.layout == "bnhd":
        shape = body.sizes([0, 0], "num_heads", "head_dim")
        return [body.op("Transpose", [body.op("Reshape", [n, shape])], perm=[0, 2, 1, 3]) for n in ("q", "k", "v")]
    split = body.op("Reshape", ["qkv", body.sizes([0, 0, 3], "num_heads", "head_dim")])
    moved = body.op("Transpose", [split], perm=[2, 0, 3, 1, 4])
    parts = body.ops("Split", [moved], 3, axis=0, num_outputs=3)
    axis = body.ints([0])
    return [body.op("Squeeze", [p, axis]) for p in parts]


def _real(body: _Body, operand: str, scale: str, signature: Signature) -> str:
    if not signature.int8_in:
        return operand
    name: str = body.op("DequantizeLinear", [operand, body.attribute(scale, AttributeProto.FLOAT)])
    return name


def _head_factors(body: _Body) -> list[str]:
    """The factors of q's, k's and v's heads, each [1, H, 1, 1]."""
    factors = body.attribute("head_scales", AttributeProto.FLOATS)
    spread = body.op("Reshape", [factors, body.sizes([3], "num_heads", [1, 1])])
    return body.ops("Split", [spread], 3, axis=0, num_outputs=3)


def _add_bias(body: _Body, scores: str, compute: torch.dtype, signature: Signature) -> str:
    bias = "bias"
    if signature.bias_type != compute:
        bias = body.op("Cast", [bias], to=_TYPES[compute])
    if not signature.windows:
        return body.op("Add", [scores, bias])
    shape = body.op("Shape", [scores])
    tail = body.op("Shape", [scores], start=1)
    windows = body.op("Shape", ["bias"], start=0, end=1)
    grouped = body.op("Reshape", [scores, body.op("Concat", [body.ints([-1]), windows, tail], axis=0)])
    return body.op("Reshape", [body.op("Add", [grouped, bias]), shape])


def _hide_later_keys(body: _Body, scores: str, compute: torch.dtype) -> str:
    nothing = helper.make_tensor("", TensorProto.FLOAT, [1], [-math.inf])
    everywhere = body.op("ConstantOfShape", [body.op("Shape", [scores], start=2)], value=nothing)
    above = body.op("Trilu", [everywhere, body.op("Constant", [], value_int=1)], upper=1)
    if compute != torch.float32:
        above = body.op("Cast", [above], to=_TYPES[compute])
    return body.op("Add", [scores, above])


def functions_of(signatures: Mapping[Signature, str], opset: int) -> list[onnx.FunctionProto]:
    """A function for each form a model uses."""
    return [attention_function(signature, overload, opset) for signature, overload in signatures.items()]
