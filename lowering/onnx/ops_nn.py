"""Layers: linear, convolution, norms, embedding."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from vitc.errors import LoweringError
from vitc.graph.nodes import constant, is_constant, shape_of, val, where
from vitc.lowering.onnx.arguments import Refused
from vitc.lowering.onnx.emitter import Emitter, emits

aten, ops = torch.ops.aten, torch.ops.vitc


@emits(aten.linear.default)
def _linear(e: Emitter, node: Node, x: Any, weight: Any, bias: Any) -> str:
    """MatMul with the weight stored as [in, out], so no engine has to transpose, and Add."""
    if len(shape_of(weight)) != 2:
        raise Refused(f"{where(node)} has a weight of shape {list(shape_of(weight))}")
    out = e.op("MatMul", [e.value(x), _transposed_weight(e, weight)])
    return out if bias is None else e.op("Add", [out, e.value(bias)])


def _transposed_weight(e: Emitter, weight: Any) -> str:
    if is_constant(weight):
        return e.initializer(f"{weight.target}", constant(e.module, weight).T)
    if weight.target is ops.dequantize.default and is_constant(weight.args[0]):
        data, scale, axis = weight.args
        stored = e.initializer(f"{data.target}", constant(e.module, data).T)
        per_channel = {"axis": 1 - int(axis)} if val(scale).ndim else {}
        return e.op("DequantizeLinear", [stored, e.value(scale)], **per_channel)  # type: ignore[arg-type]
    return e.op("Transpose", [e.value(weight)], perm=[1, 0])


def each(value: Any, rank: int) -> list[int]:
    """A number for each of `rank` dimensions, from one number or as many."""
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return [int(v) for v in (values * rank if len(values) == 1 else values)]


def batched(e: Emitter, x: Node, rank: int) -> tuple[str, bool]:
    """The operand with a batch dimension, and whether it had none: torch's layers take [C, …] too, ONNX's do not."""
    name = e.value(x)
    if len(shape_of(x)) == rank + 2:
        return name, False
    return e.op("Unsqueeze", [name, e.ints([0])]), True


def unbatched(e: Emitter, name: str, was: bool) -> str:
    return e.op("Squeeze", [name, e.ints([0])]) if was else name


@emits(aten.conv1d.default, aten.conv2d.default, aten.conv3d.default, aten.conv1d.padding, aten.conv2d.padding,
       aten.conv3d.padding)  # fmt: skip
def _conv(e: Emitter, node: Node, x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any,
          groups: int) -> str:  # fmt: skip
    kernel = list(shape_of(weight)[2:])
    rank = len(kernel)
    if padding == "same":  # what is over goes to the end
        sums = [d * (k - 1) for d, k in zip(each(dilation, rank), kernel, strict=True)]
        pads = [t // 2 for t in sums] + [t - t // 2 for t in sums]
    else:
        pads = each(0 if padding == "valid" else padding, rank) * 2
    return _convolution(e, "Conv", x, weight, bias, stride, pads, dilation, groups)


def _convolution(e: Emitter, op: str, x: Node, weight: Node, bias: Any, stride: Any, pads: list[int], dilation: Any,
                 groups: int, **more: Any) -> str:  # fmt: skip
    kernel = list(shape_of(weight)[2:])
    rank = len(kernel)
    name, lone = batched(e, x, rank)
    inputs = [name, e.value(weight), *([] if bias is None else [e.value(bias)])]
    out = e.op(
        op, inputs, kernel_shape=kernel, strides=each(stride, rank), pads=pads, dilations=each(dilation, rank),
        group=int(groups), **more,
    )  # fmt: skip
    return unbatched(e, out, lone)


@emits(aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input)
def _conv_transpose(e: Emitter, node: Node, x: Any, weight: Any, bias: Any, stride: Any, padding: Any,
                    output_padding: Any, groups: int, dilation: Any) -> str:  # fmt: skip
    rank = len(shape_of(weight)) - 2
    return _convolution(
        e, "ConvTranspose", x, weight, bias, stride, each(padding, rank) * 2, dilation, groups,
        output_padding=each(output_padding, rank),
    )  # fmt: skip


@emits(aten.convolution.default)
def _any_convolution(e: Emitter, node: Node, x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any,
                     transposed: bool, output_padding: Any, groups: int) -> str:  # fmt: skip
    rank = len(shape_of(weight)) - 2
    more = {"output_padding": each(output_padding, rank)} if transposed else {}
    op, pads = "ConvTranspose" if transposed else "Conv", each(padding, rank) * 2
    return _convolution(e, op, x, weight, bias, stride, pads, dilation, groups, **more)


@emits(aten.layer_norm.default, settled=("cudnn_enable",))
def _layer_norm(e: Emitter, node: Node, x: Any, normalized_shape: Any, weight: Any, bias: Any, eps: float) -> str:
    sizes, dtype = [int(s) for s in normalized_shape], val(node).dtype
    scale = (
        e.value(weight)
        if weight is not None
        else e.initializer(f"ones_{sizes}_{dtype}", torch.ones(sizes, dtype=dtype))
    )
    inputs = [e.value(x), scale, *([] if bias is None else [e.value(bias)])]
    return e.op("LayerNormalization", inputs, axis=-len(sizes), epsilon=float(eps))


@emits(aten.rms_norm.default)
def _rms_norm(e: Emitter, node: Node, x: Any, normalized_shape: Any, weight: Any, eps: Any) -> str:
    """x / √(mean(x²) + ε) · γ (Zhang & Sennrich, arXiv 1910.07467); opset 20 has no operator for it."""
    dtype = val(node).dtype
    name = e.value(x)
    axes = e.ints(range(-len(normalized_shape), 0))
    mean = e.op("ReduceMean", [e.op("Mul", [name, name]), axes], keepdims=1)
    root = e.op("Sqrt", [e.op("Add", [mean, e.const(torch.finfo(dtype).eps if eps is None else eps, dtype)])])
    out = e.op("Div", [name, root])
    return out if weight is None else e.op("Mul", [out, e.value(weight)])


@emits(aten.group_norm.default, settled=("cudnn_enabled",))
def _group_norm(e: Emitter, node: Node, x: Any, num_groups: int, weight: Any, bias: Any, eps: float) -> str:
    """As one instance normalization over merged groups, then the affine."""
    shape, dtype, groups = shape_of(x), val(node).dtype, int(num_groups)
    ones, zeros = torch.ones(groups, dtype=dtype), torch.zeros(groups, dtype=dtype)
    merged = e.op("Reshape", [e.value(x), e.ints([0, groups, -1])])
    normed = e.op(
        "InstanceNormalization",
        [merged, e.initializer(f"ones_{groups}_{dtype}", ones), e.initializer(f"zeros_{groups}_{dtype}", zeros)],
        epsilon=float(eps),
    )
    out = e.op("Reshape", [normed, e.op("Shape", [e.value(x)])])
    for op_type, operand in (("Mul", weight), ("Add", bias)):
        if operand is not None:
            column = e.op("Reshape", [e.value(operand), e.ints([1, -1] + [1] * (len(shape) - 2))])
            out = e.op(op_type, [out, column])
    return out


@emits(aten.embedding.default, settled=("padding_idx", "scale_grad_by_freq", "sparse"))
def _embedding(e: Emitter, node: Node, weight: Any, indices: Any) -> str:
    """The settled arguments concern gradients alone."""
    return e.op("Gather", [e.value(weight), e.value(indices)], axis=0)


@emits(aten.scaled_dot_product_attention.default, whole=True)
def _sdpa(e: Emitter, node: Node) -> str:
    raise LoweringError(f"{where(node)} is not tiled; run the pass 'tile-attention' before lowering")
