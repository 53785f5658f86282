"""Layers: linear, convolution, norms, pooling, resize."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from vitc.errors import LoweringError
from vitc.graph.nodes import constant, is_constant, shape_of, val, where
from vitc.lowering.onnx.emitter import Emitter, emits, literal

aten, ops = torch.ops.aten, torch.ops.vitc


@emits(aten.linear.default)
def _linear(e: Emitter, node: Node) -> str:
    """MatMul with the weight stored as [in, out], so no engine has to transpose, and Add."""
    out = e.op("MatMul", [e.value(node.args[0]), _transposed_weight(e, node.args[1])])  # type: ignore[arg-type]
    bias = literal(node, 2, "bias", None)
    return out if bias is None else e.op("Add", [out, e.value(bias)])


def _transposed_weight(e: Emitter, weight: Node) -> str:
    if is_constant(weight):
        return e.initializer(f"{weight.target}", constant(e.module, weight).T)
    if weight.target is ops.dequantize.default and is_constant(weight.args[0]):
        data, scale, axis = weight.args
        stored = e.initializer(f"{data.target}", constant(e.module, data).T)  # type: ignore[union-attr, arg-type]
        per_channel = {"axis": 1 - int(axis)} if val(scale).ndim else {}  # type: ignore[arg-type]
        return e.op("DequantizeLinear", [stored, e.value(scale)], **per_channel)  # type: ignore[arg-type]
    return e.op("Transpose", [e.value(weight)], perm=[1, 0])


@emits(aten.conv2d.default, aten.conv1d.default, aten.conv3d.default)
def _conv(e: Emitter, node: Node) -> str:
    x, weight = node.args[:2]
    rank = len(shape_of(weight)) - 2  # type: ignore[arg-type]
    bias, stride, padding = (
        literal(node, 2, "bias", None),
        literal(node, 3, "stride", 1),
        literal(node, 4, "padding", 0),
    )
    dilation, groups = literal(node, 5, "dilation", 1), literal(node, 6, "groups", 1)
    inputs = [e.value(x), e.value(weight)] + ([] if bias is None else [e.value(bias)])
    pads = _each(padding, rank)
    return e.op(
        "Conv", inputs, kernel_shape=list(shape_of(weight)[2:]), strides=_each(stride, rank),  # type: ignore[arg-type]
        pads=pads + pads, dilations=_each(dilation, rank), group=int(groups),
    )  # fmt: skip


@emits(aten.conv2d.padding)
def _conv_same(e: Emitter, node: Node) -> str:
    x, weight = node.args[:2]
    bias, stride = literal(node, 2, "bias", None), literal(node, 3, "stride", 1)
    mode = {"same": "SAME_UPPER", "valid": "VALID"}[str(literal(node, 4, "padding", "valid"))]
    inputs = [e.value(x), e.value(weight)] + ([] if bias is None else [e.value(bias)])
    return e.op(
        "Conv", inputs, kernel_shape=list(shape_of(weight)[2:]), strides=_each(stride, 2), auto_pad=mode,  # type: ignore[arg-type]
        dilations=_each(literal(node, 5, "dilation", 1), 2), group=int(literal(node, 6, "groups", 1)),
    )  # fmt: skip


@emits(aten.conv_transpose2d.input)
def _conv_transpose(e: Emitter, node: Node) -> str:
    x, weight = node.args[:2]
    bias = literal(node, 2, "bias", None)
    inputs = [e.value(x), e.value(weight)] + ([] if bias is None else [e.value(bias)])
    pads = _each(literal(node, 4, "padding", 0), 2)
    return e.op(
        "ConvTranspose", inputs, kernel_shape=list(shape_of(weight)[2:]),  # type: ignore[arg-type]
        strides=_each(literal(node, 3, "stride", 1), 2), pads=pads + pads,
        output_padding=_each(literal(node, 5, "output_padding", 0), 2), group=int(literal(node, 6, "groups", 1)),
        dilations=_each(literal(node, 7, "dilation", 1), 2),
    )  # fmt: skip


def _each(value: Any, rank: int) -> list[int]:
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return [int(v) for v in (values * rank if len(values) == 1 else values)]


@emits(aten.layer_norm.default)
def _layer_norm(e: Emitter, node: Node) -> str:
    x, normalized = node.args[:2]
    weight, bias = literal(node, 2, "weight", None), literal(node, 3, "bias", None)
    dtype = val(node).dtype
    scale = (
        e.value(weight)
        if weight is not None
        else e.initializer(
            f"ones_{list(normalized)}_{dtype}",  # type: ignore[arg-type]
            torch.ones(list(normalized), dtype=dtype),  # type: ignore[arg-type]
        )
    )
    inputs = [e.value(x), scale] + ([] if bias is None else [e.value(bias)])
    return e.op("LayerNormalization", inputs, axis=-len(normalized), epsilon=float(literal(node, 4, "eps", 1e-5)))  # type: ignore[arg-type]


@emits(aten.rms_norm.default)
def _rms_norm(e: Emitter, node: Node) -> str:
    """x / √(mean(x²) + ε) · γ (Zhang & Sennrich, arXiv 1910.07467); opset 20 has no operator for it."""
    x, normalized = node.args[:2]
    dtype = val(node).dtype
    eps = literal(node, 3, "eps", None)
    name = e.value(x)
    axes = e.ints(range(-len(normalized), 0))  # type: ignore[arg-type]
    mean = e.op("ReduceMean", [e.op("Mul", [name, name]), axes], keepdims=1)
    root = e.op("Sqrt", [e.op("Add", [mean, e.const(torch.finfo(dtype).eps if eps is None else eps, dtype)])])
    out = e.op("Div", [name, root])
    weight = literal(node, 2, "weight", None)
    return out if weight is None else e.op("Mul", [out, e.value(weight)])


@emits(aten.group_norm.default)
def _group_norm(e: Emitter, node: Node) -> str:
    """As one instance normalization over merged groups, then the affine."""
    x, groups = node.args[:2]
    shape, dtype = shape_of(x), val(node).dtype  # type: ignore[arg-type]
    ones, zeros = torch.ones(int(groups), dtype=dtype), torch.zeros(int(groups), dtype=dtype)  # type: ignore[arg-type]
    merged = e.op("Reshape", [e.value(x), e.ints([0, int(groups), -1])])  # type: ignore[arg-type]
    normed = e.op(
        "InstanceNormalization",
        [merged, e.initializer(f"ones_{groups}_{dtype}", ones), e.initializer(f"zeros_{groups}_{dtype}", zeros)],
        epsilon=float(literal(node, 4, "eps", 1e-5)),
    )
    out = e.op("Reshape", [normed, e.op("Shape", [e.value(x)])])
    for op_type, operand in (("Mul", literal(node, 2, "weight", None)), ("Add", literal(node, 3, "bias", None))):
        if operand is not None:
            column = e.op("Reshape", [e.value(operand), e.ints([1, -1] + [1] * (len(shape) - 2))])
            out = e.op(op_type, [out, column])
    return out


@emits(aten.batch_norm.default)
def _batch_norm(e: Emitter, node: Node) -> str:
    raise LoweringError(f"{where(node)} is a BatchNorm in training mode or without statistics; call model.eval() first")


@emits(aten.max_pool2d.default)
def _max_pool(e: Emitter, node: Node) -> str:
    kernel = _each(node.args[1], 2)
    stride = literal(node, 2, "stride", []) or kernel
    pads = _each(literal(node, 3, "padding", 0), 2)
    return e.op(
        "MaxPool", [e.value(node.args[0])], kernel_shape=kernel, strides=_each(stride, 2), pads=pads + pads,
        dilations=_each(literal(node, 4, "dilation", 1), 2), ceil_mode=int(literal(node, 5, "ceil_mode", False)),
    )  # fmt: skip


@emits(aten.avg_pool2d.default)
def _avg_pool(e: Emitter, node: Node) -> str:
    kernel = _each(node.args[1], 2)
    stride = literal(node, 2, "stride", []) or kernel
    pads = _each(literal(node, 3, "padding", 0), 2)
    return e.op(
        "AveragePool", [e.value(node.args[0])], kernel_shape=kernel, strides=_each(stride, 2), pads=pads + pads,
        ceil_mode=int(literal(node, 4, "ceil_mode", False)), count_include_pad=int(literal(node, 5,
        "count_include_pad", True)),
    )  # fmt: skip


@emits(aten.adaptive_avg_pool2d.default, aten.adaptive_avg_pool1d.default)
def _adaptive_pool(e: Emitter, node: Node) -> str:
    sizes = [int(s) for s in node.args[1]]  # type: ignore[union-attr, arg-type]
    x = node.args[0]
    spatial = [int(s) for s in shape_of(x)[-len(sizes) :]]  # type: ignore[arg-type]
    if all(s == 1 for s in sizes):
        return e.op("ReduceMean", [e.value(x), e.ints(range(-len(sizes), 0))], keepdims=1)
    if any(a % b for a, b in zip(spatial, sizes, strict=True)):
        raise LoweringError(f"{where(node)} pools {spatial} to {sizes}; only whole ratios have an ONNX form")
    kernel = [a // b for a, b in zip(spatial, sizes, strict=True)]
    return e.op("AveragePool", [e.value(x)], kernel_shape=kernel, strides=kernel)


_RESIZE = {
    aten.upsample_bilinear2d.vec: ("linear", 0), aten.upsample_bicubic2d.vec: ("cubic", 0),
    aten.upsample_nearest2d.vec: ("nearest", 0), aten._upsample_bilinear2d_aa.vec: ("linear", 1),
    aten._upsample_bicubic2d_aa.vec: ("cubic", 1),
}  # fmt: skip


@emits(*_RESIZE)
def _resize(e: Emitter, node: Node) -> str:
    mode, antialias = _RESIZE[node.target]  # type: ignore[index]
    nearest = mode == "nearest"
    align = False if nearest else bool(node.args[2])
    height, width = shape_of(node)[-2:]
    batch = e.op("Shape", [e.value(node.args[0])], start=0, end=2)
    sizes = e.op("Concat", [batch, e.ints([int(height), int(width)])], axis=0)
    coordinates = "asymmetric" if nearest else "align_corners" if align else "half_pixel"
    # PyTorch's antialiasing renormalizes the weights at the border (as Pillow): exclude_outside.
    extra: dict[str, Any] = (
        {"nearest_mode": "floor"} if nearest else {"antialias": antialias, "exclude_outside": antialias}
    )
    if mode == "cubic":
        extra["cubic_coeff_a"] = -0.5 if antialias else -0.75
    return e.op(
        "Resize", [e.value(node.args[0]), "", "", sizes], mode=mode, coordinate_transformation_mode=coordinates, **extra
    )


@emits(aten.grid_sampler.default)
def _grid_sample(e: Emitter, node: Node) -> str:
    x, grid, mode, padding, align = node.args
    return e.op(
        "GridSample", [e.value(x), e.value(grid)], mode=["linear", "nearest", "cubic"][int(mode)],  # type: ignore[arg-type]
        padding_mode=["zeros", "border", "reflection"][int(padding)], align_corners=int(bool(align)),  # type: ignore[arg-type]
    )  # fmt: skip


@emits(aten.embedding.default)
def _embedding(e: Emitter, node: Node) -> str:
    return e.op("Gather", [e.value(node.args[0]), e.value(node.args[1])], axis=0)


@emits(aten.scaled_dot_product_attention.default)
def _sdpa(e: Emitter, node: Node) -> str:
    raise LoweringError(f"{where(node)} is not tiled; run the pass 'tile-attention' before lowering")
