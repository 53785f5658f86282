"""Every operator with an ONNX form: ONNX Runtime gives what PyTorch gives, at the example's batch and at another."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import vitc
from vitc.errors import LoweringError
from vitc.frontend.capture import capture
from vitc.graph.program import Program
from vitc.lowering.onnx import emitter
from vitc.lowering.onnx.model import OnnxModel, lower

aten, own, prims = torch.ops.aten, torch.ops.vitc, torch.ops.prims

X = (4, 6)  # of one image: the batch comes before it
IMAGE = (4, 8, 8)


class Call(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.randn(5, 6))
        self.bias = nn.Parameter(torch.randn(5))
        self.row = nn.Parameter(torch.rand(6) + 0.5)
        self.kernel = nn.Parameter(torch.randn(4, 2, 3, 3))
        self.register_buffer("index", torch.tensor([2, 0, 1]))
        self.register_buffer("table", torch.randn(7, 3))

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


#: Each calls one operator, or a few. `m` holds weights; `x`, `y` are [batch, 4, 6], images [batch, 4, 8, 8].
UNARY = (
    "exp", "neg", "abs", "erf", "tanh", "sigmoid", "relu", "sin", "cos", "floor", "ceil", "round", "hardswish",
    "softplus", "tan", "atan", "sinh", "cosh", "asinh", "sign", "sgn", "mish", "trunc", "fix", "exp2", "expm1",
    "detach", "contiguous", "lift_fresh_copy",
    "clone", "alias", "square", "silu", "hardsigmoid", "gelu", "elu", "leaky_relu", "hardtanh", "log", "sqrt",
    "rsqrt", "reciprocal", "log1p", "log2", "log10", "erfc",
)  # fmt: skip
POSITIVE = (
    aten.log.default, aten.sqrt.default, aten.rsqrt.default, aten.reciprocal.default, aten.log1p.default,
    aten.log2.default, aten.log10.default,
)  # fmt: skip
COMPARE = ("eq", "ne", "gt", "ge", "lt", "le")


def _unary(op: Any) -> Callable[..., Any]:
    return lambda m, x: op(x.abs() + 0.1 if op in POSITIVE else x)


def _compared(op: Any) -> Callable[..., Any]:
    return lambda m, x: op(x, 0.25).float()


def _of_two(op: Any, prepare: Callable[[Tensor], Tensor] = lambda t: t) -> Callable[..., Any]:
    return lambda m, x, y: op(prepare(x), prepare(y)).float()


def _written(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, 1:3] = 0.5
    y[:, 0, ::2] += x[:, 1, ::2]
    y[..., -1] = x[..., 0]
    return y


def _resized(mode: str, factor: float) -> Callable[..., Any]:
    return lambda m, x: nn.functional.interpolate(x, scale_factor=(factor, 1.0), mode=mode)


ONE: dict[str, Callable[..., Any]] = {
    **{name: _unary(getattr(aten, name).default) for name in UNARY},
    **{f"{name}.Scalar": _compared(getattr(aten, name).Scalar) for name in COMPARE},
    **{name: (lambda op: lambda m, x: op(x.tanh()))(getattr(aten, name).default) for name in ("asin", "acos", "atanh")},
    "acosh": lambda m, x: aten.acosh.default(x.abs() + 1.1),
    "isnan": lambda m, x: aten.isnan.default(x.log()).float(),
    "isinf": lambda m, x: aten.isinf.default(1 / x.relu()).float(),
    "isnan of integers": lambda m, x: aten.isnan.default(x.long()).float(),
    "bitwise_not of integers": lambda m, x: aten.bitwise_not.default(x.long()),
    "bitwise of integers": lambda m, x: (x * 9).long() & 5 | 8 ^ (x * 3).int(),
    "masks": lambda m, x: ((x > 0) & (x < 1) | ~(x < 0.5) ^ (x > -1)).float(),
    "booleans": lambda m, x: ((x > 0) * (x < 1) + (x > 2)).float(),
    "maximum of booleans": lambda m, x: torch.maximum(x > 0, x < 1).float(),
    "compared booleans": lambda m, x: ((x > 0) > (x < 1)).float(),
    "where scalars": lambda m, x: aten.where.Scalar(x > 0, 1.0, -1.0),
    "add of small integers": lambda m, x: (x * 100).to(torch.uint8) // 2 + (x > 0).to(torch.uint8),
    "pow.Scalar": lambda m, x: aten.pow.Scalar(2, x),
    "rsub alpha": lambda m, x: aten.rsub.Scalar(x, 2.0, 3),
    "elu scaled": lambda m, x: aten.elu.default(x, 1.0, 1.05, 0.5),
    "softplus 2": lambda m, x: aten.softplus.default(x, 2.0, 1.0),
    "hardtanh bounds": lambda m, x: aten.hardtanh.default(x, -0.2, 0.3),
    "clamp of integers": lambda m, x: aten.clamp.default((x * 5).long(), -2, 3),
    "clamp crossed": lambda m, x: aten.clamp.default(x, 1.0, -1.0),
    "clamp by tensors": lambda m, x: aten.clamp.Tensor(x, m.row * -1, m.row),
    "clamp_min tensor": lambda m, x: aten.clamp_min.Tensor(x, m.row),
    "clamp_max tensor": lambda m, x: aten.clamp_max.Tensor(x, m.row),
    "floor_divide": lambda m, x: (aten.floor_divide.default(x, 0.3), aten.floor_divide.default(x, -0.7)),
    "divided, floor": lambda m, x: aten.div.Tensor_mode((x * 50).long(), (m.row * 7).long() + 1, rounding_mode="floor"),
    "divided, trunc": lambda m, x: aten.div.Scalar_mode((x * 50).int(), -7, rounding_mode="trunc"),
    "divided, trunc of floats": lambda m, x: aten.div.Scalar_mode(x, 0.3, rounding_mode="trunc"),
    "remainder": lambda m, x: aten.remainder.Scalar(x, -0.7),
    "remainder tensor": lambda m, x: aten.remainder.Tensor((x * 50).long(), (m.row * 7).long() + 1),
    "remainder of a number": lambda m, x: aten.remainder.Scalar_Tensor(7, (x.abs() * 5).long() + 1),
    "fmod": lambda m, x: aten.fmod.Scalar(x, -0.7),
    "fmod tensor": lambda m, x: aten.fmod.Tensor((x * 50).long(), (m.row * 7).long() + 1),
    "max": lambda m, x: x - aten.max.default(x),
    "min": lambda m, x: x - aten.min.default(x),
    "prod": lambda m, x: aten.prod.dim_int(x, 1, True),
    "prod of all": lambda m, x: x * 0 + aten.prod.default(x[:1, :2, :2]),
    "any": lambda m, x: x * aten.any.default(x > 1),
    "any.dim": lambda m, x: aten.any.dim(x > 1, 1).float(),
    "any.dims": lambda m, x: aten.any.dims(x > 1, [1, 2]).float(),
    "all": lambda m, x: x * aten.all.default(x > -9),
    "all.dim": lambda m, x: aten.all.dim(x > -1, -1, True).float(),
    "all.dims": lambda m, x: aten.all.dims(x > -1, [1, 2]).float(),
    "sum of booleans": lambda m, x: aten.sum.dim_IntList(x > 0, [1]),
    "norm inf": lambda m, x: aten.linalg_vector_norm.default(x, float("inf"), [-1]),
    "norm 3": lambda m, x: aten.linalg_vector_norm.default(x, 3, [-1]),
    "var of all": lambda m, x: x - aten.var.correction(x, None),
    "argmax of all": lambda m, x: x * 0 + aten.argmax.default(x[:1]),
    "argmin": lambda m, x: aten.argmin.default(x, 1, True),
    "cumsum of integers": lambda m, x: aten.cumsum.default(x > 0, -1),
    "_log_softmax": lambda m, x: aten._log_softmax.default(x, -1, False),
    "_safe_softmax": lambda m, x: aten._safe_softmax.default(x.masked_fill(x[..., :1] > 0, -torch.inf), -1),
    "slice_scatter": lambda m, x: aten.slice_scatter.default(x, x[:, 1:3] * 2, 1, -3, -1),
    "slice_scatter by steps": lambda m, x: aten.slice_scatter.default(x, x[:, :2] * 2, 1, 0, 4, 2),
    "select_scatter": lambda m, x: aten.select_scatter.default(x, x[:, 0] * 2, 1, -2),
    "copy": lambda m, x: aten.copy.default(x, m.row),
    "written in place": lambda m, x: _written(x),
    "index, two": lambda m, x: aten.index.Tensor(x, [None, m.index, m.index]),
    "index, the batch": lambda m, x: x[torch.arange(x.shape[0]), (x[:, :, 0] * 9).argmax(-1)],
    "index, apart": lambda m, x: x.unsqueeze(1).expand(-1, 3, -1, -1)[:, m.index, :, m.index],
    "index, below zero": lambda m, x: x[:, (x[:, 0, :2] > 0).long() - 1],
    "_unsafe_index": lambda m, x: aten._unsafe_index.Tensor(x, [None, None, m.index]),
    "index_put": lambda m, x: aten.index_put.default(x, [None, m.index], x[:, :3] * 2),
    "index_put sums": lambda m, x: aten.index_put.default(x, [None, m.index * 0, m.index], m.row[0] * 1, True),
    "index_put by a mask": lambda m, x: aten.index_put.default(x, [x > 0], m.row[0] * 1),
    "_unsafe_index_put": lambda m, x: aten._unsafe_index_put.default(x, [None, m.index], x[:, :3] * 2),
    "scatter": lambda m, x: aten.scatter.src(x, 2, x.argsort(-1)[..., :4], x * 2),
    "scatter one": lambda m, x: aten.scatter.value(x, 2, x.argmax(-1, keepdim=True), 7.0),
    "scatter_add": lambda m, x: aten.scatter_add.default(x, 2, (x > 0).long(), x),
    "scatter, product": lambda m, x: aten.scatter.reduce(x, 2, (x > 0).long(), x, reduce="multiply"),
    "scatter, sum of one": lambda m, x: aten.scatter.value_reduce(x, 2, (x > 0).long(), 2.0, reduce="add"),
    "scatter_reduce": lambda m, x: aten.scatter_reduce.two(x, 2, (x > 0).long(), x, "amax"),
    "unfold": lambda m, x: aten.unfold.default(x, 2, 3, 2),
    "sort": lambda m, x: aten.sort.default(x, 1, True),
    "sort, stable": lambda m, x: aten.sort.stable(x.round(), stable=True, dim=-1),
    "repeat_interleave": lambda m, x: x.repeat_interleave(3, 1),
    "linspace and more": lambda m, x: x.tril() + x.triu(1).lerp(x, 0.3) + x.logsumexp(-1, True),
    "roll of all": lambda m, x: aten.roll.default(x[:1].reshape(4, 6) + 0 * x[0], [5]),
    "flatten of one": lambda m, x: x.sum() * x,
    "pad, cut": lambda m, x: aten.pad.default(x, [-1, 2, 1, -2]),
    "pad of booleans": lambda m, x: aten.constant_pad_nd.default(x > 0, [1, 1], 1).float(),
    "reflection_pad1d": lambda m, x: aten.reflection_pad1d.default(x, [1, 2]),
    "replication_pad1d": lambda m, x: aten.replication_pad1d.default(x, [1, 2]),
    "expand to none": lambda m, x: torch.cat([aten.expand.default(x[:, :1, :0], [-1, 4, 0]), x], -1),
    "empty_like": lambda m, x: aten.fill.Scalar(aten.empty_like.default(x), 1.5),
    "new_empty": lambda m, x: aten.fill.Scalar(aten.new_empty.default(x, [x.shape[0], 2]), 1.5),
    "scalar_tensor": lambda m, x: x + aten.scalar_tensor.default(x.shape[0]),
    "to": lambda m, x: x.to(torch.int32),
    "to boolean": lambda m, x: aten._to_copy.default(x * 0.1, dtype=torch.bool).float(),
    "sizes rounded up": lambda m, x: x.new_zeros(3 - (-x.shape[0] // 2), 2),
    "greatest size": lambda m, x: x.new_zeros(torch.sym_max(x.shape[0], 4), torch.sym_min(x.shape[0], 4)),
    "amax": lambda m, x: aten.amax.default(x, [-1], True),
    "amin": lambda m, x: aten.amin.default(x, [1]),
    "gelu tanh": lambda m, x: aten.gelu.default(x, approximate="tanh"),
    "elu 0.5": lambda m, x: aten.elu.default(x, 0.5),
    "leaky 0.2": lambda m, x: aten.leaky_relu.default(x, 0.2),
    "clamp": lambda m, x: aten.clamp.default(x, -0.5, 0.5),
    "clamp low": lambda m, x: aten.clamp.default(x, min=-0.5),
    "clamp_min": lambda m, x: aten.clamp_min.default(x, 0.1),
    "clamp_max": lambda m, x: aten.clamp_max.default(x, 0.1),
    "add.Scalar": lambda m, x: aten.add.Scalar(x, 2.0),
    "sub.Scalar": lambda m, x: aten.sub.Scalar(x, 2.0),
    "mul.Scalar": lambda m, x: aten.mul.Scalar(x, 2.0),
    "div.Scalar": lambda m, x: aten.div.Scalar(x, 2.0),
    "rsub.Scalar": lambda m, x: aten.rsub.Scalar(x, 2.0),
    "pow": lambda m, x: aten.pow.Tensor_Scalar(x, 3),
    "logical_not": lambda m, x: aten.logical_not.default(x > 0).float(),
    "bitwise_not": lambda m, x: aten.bitwise_not.default(x > 0).float(),
    "where scalar other": lambda m, x: aten.where.ScalarOther(x > 0, x, -1.0),
    "where scalar self": lambda m, x: aten.where.ScalarSelf(x > 0, -1.0, x),
    "masked_fill": lambda m, x: aten.masked_fill.Scalar(x, x > 0.5, -100),
    "masked_fill tensor": lambda m, x: aten.masked_fill.Tensor(x, x > 0.5, m.bias[0] * 1),
    "mean": lambda m, x: x + aten.mean.default(x),
    "mean.dim": lambda m, x: aten.mean.dim(x, [1], True),
    "sum": lambda m, x: x + aten.sum.default(x),
    "sum.dim": lambda m, x: aten.sum.dim_IntList(x, [-1, 1]),
    "norm 2": lambda m, x: aten.linalg_vector_norm.default(x, 2, [-1], True),
    "norm 1": lambda m, x: aten.linalg_vector_norm.default(x, 1, [1]),
    "var": lambda m, x: aten.var.correction(x, [-1], correction=1, keepdim=True),
    "var population": lambda m, x: aten.var.correction(x, [1, 2], correction=0),
    "var_mean": lambda m, x: aten.var_mean.correction(x, [-1], correction=0, keepdim=True),
    "var_mean squeezed": lambda m, x: aten.var_mean.correction(x, [-1], correction=1),
    "cumsum": lambda m, x: aten.cumsum.default(x, 1),
    "max.dim": lambda m, x: aten.max.dim(x, -1),
    "min.dim": lambda m, x: aten.min.dim(x, 1, True),
    "argmax": lambda m, x: aten.argmax.default(x, -1),
    "softmax": lambda m, x: aten.softmax.int(x, -1),
    "_softmax": lambda m, x: aten._softmax.default(x, 1, False),
    "log_softmax": lambda m, x: aten.log_softmax.int(x, -1),
    "glu": lambda m, x: aten.glu.default(x, -1),
    "linear": lambda m, x: aten.linear.default(x, m.weight, m.bias),
    "linear, no bias": lambda m, x: aten.linear.default(x, m.weight),
    "addmm": lambda m, x: aten.addmm.default(m.bias, x[:, 0], m.weight.t()),
    "addmm scaled": lambda m, x: aten.addmm.default(m.bias, x[:, 0], m.weight.t(), beta=0.5, alpha=2),
    "mm": lambda m, x: aten.mm.default(x[:, 0], m.weight.t()),
    "layer_norm": lambda m, x: aten.layer_norm.default(x, [6], m.row, m.row, 1e-6),
    "layer_norm, two dims, plain": lambda m, x: aten.layer_norm.default(x, [4, 6]),
    "rms_norm": lambda m, x: aten.rms_norm.default(x, [6], m.row, 1e-6),
    "rms_norm, own epsilon": lambda m, x: aten.rms_norm.default(x, [6]),
    "view": lambda m, x: aten.view.default(x, [x.shape[0], 24]),
    "_unsafe_view": lambda m, x: aten._unsafe_view.default(x, [x.shape[0] * 4, 6]),
    "reshape, -1 and the batch": lambda m, x: aten.reshape.default(x, [x.shape[0], -1, 2, 3, 2]),
    "reshape, near twins": lambda m, x: (x.reshape(x.shape[0], -1, 2, 3, 2), x.reshape(x.shape[0], -1, 2, 3, 4)),
    "flatten": lambda m, x: aten.flatten.using_ints(x, 1),
    "unflatten": lambda m, x: aten.unflatten.int(x, -1, [2, 3]),
    "permute": lambda m, x: aten.permute.default(x, [2, 0, 1]),
    "transpose": lambda m, x: aten.transpose.int(x, -1, 0),
    "t": lambda m, x: aten.t.default(x[:, 0]),
    "unsqueeze": lambda m, x: aten.unsqueeze.default(x, -1),
    "squeeze": lambda m, x: aten.squeeze.default(x[:, :1]),
    "squeeze.dim": lambda m, x: aten.squeeze.dim(x[:, :1], 1),
    "squeeze.dims": lambda m, x: aten.squeeze.dims(x[:, :1, :1], [1, 2]),
    "expand": lambda m, x: aten.expand.default(x[:, :1], [-1, 3, 6]),
    "repeat": lambda m, x: aten.repeat.default(x, [1, 2, 1]),
    "repeat, more dims": lambda m, x: aten.repeat.default(x, [2, 1, 1, 3]),
    "unbind": lambda m, x: aten.unbind.int(x, 1),
    "split": lambda m, x: aten.split.Tensor(x, 4, -1),
    "split_with_sizes": lambda m, x: aten.split_with_sizes.default(x, [1, 5], -1),
    "select": lambda m, x: aten.select.int(x, 1, -1),
    "slice": lambda m, x: aten.slice.Tensor(x, -1, 1, -1, 2),
    "index_select": lambda m, x: aten.index_select.default(x, 1, m.index),
    "index": lambda m, x: aten.index.Tensor(x, [None, m.index]),
    "embedding": lambda m, x: aten.embedding.default(m.table, (x[:, 0] > 0).long()),
    "gather": lambda m, x: aten.gather.default(x, 2, (x > 0).long()),
    "roll": lambda m, x: aten.roll.default(x, [1, -2], [1, 2]),
    "flip": lambda m, x: aten.flip.default(x, [1, -1]),
    "pad": lambda m, x: aten.pad.default(x, [1, 2, 0, 1], "constant", 3.0),
    "pad reflect": lambda m, x: aten.pad.default(x, [1, 2], "reflect"),
    "constant_pad_nd": lambda m, x: aten.constant_pad_nd.default(x, [1, 0], -1.0),
    "sizes": lambda m, x: (x.reshape(x.shape[0] * 2, 12), x.new_zeros(x.shape[0] + 3, (x.shape[0] * 4 - 1) // 2)),
    "full": lambda m, x: x[:, :1] + aten.full.default([x.shape[0], 2, 6], 3.0),
    "zeros": lambda m, x: x[:, :1] + aten.zeros.default([x.shape[0], 2, 6]),
    "ones": lambda m, x: x[:, :1] + aten.ones.default([x.shape[0], 2, 6]),
    "new_zeros": lambda m, x: aten.new_zeros.default(x, [x.shape[0], 2]),
    "new_ones": lambda m, x: aten.new_ones.default(x, [x.shape[0], 2]),
    "new_full": lambda m, x: aten.new_full.default(x, [x.shape[0], 2], 1.5),
    "zeros_like": lambda m, x: aten.zeros_like.default(x),
    "ones_like": lambda m, x: aten.ones_like.default(x),
    "full_like": lambda m, x: aten.full_like.default(x, 2.5),
    "empty": lambda m, x: aten.fill.Scalar(aten.empty.memory_format([x.shape[0], 2]), 1.5),
    "fill": lambda m, x: aten.fill.Tensor(x, m.bias[0] * 1),
    "arange": lambda m, x: x[:, 0, 0] + aten.arange.default(x.shape[0]),
    "arange.start": lambda m, x: x[:, 0, 0] + aten.arange.start(1, x.shape[0] + 1),
    "arange.step": lambda m, x: x[:, 0, 0] + aten.arange.start_step(0, x.shape[0] * 2, 2),
    "_to_copy": lambda m, x: aten._to_copy.default(x, dtype=torch.int64),
    "topk": lambda m, x: aten.topk.default(x, 2),
    "topk smallest": lambda m, x: aten.topk.default(x, 2, 1, False),
    "einsum": lambda m, x: aten.einsum.default("bnc, oc -> bno", [x, m.weight]),
    "quantize": lambda m, x: own.dequantize(own.quantize(x, m.row[0] * 0.01, 0), m.row[0] * 0.01, 0),
    "quantize per channel": lambda m, x: own.dequantize(own.quantize(x, m.row * 0.01, 2), m.row * 0.01, 2),
}  # fmt: skip
TWO: dict[str, Callable[..., Any]] = {
    **{name: _of_two(getattr(aten, name).Tensor) for name in ("add", "sub", "mul", "div", "rsub")},
    **{name: _of_two(getattr(aten, name).Tensor, torch.round) for name in COMPARE},
    **{name: _of_two(getattr(aten, name).default, lambda t: t > 0) for name in ("logical_and", "logical_or",
    "logical_xor")},
    **{name: _of_two(getattr(aten, name).Tensor, lambda t: t > 0) for name in ("bitwise_and", "bitwise_or")},
    "add alpha": lambda m, x, y: aten.add.Tensor(x, y, alpha=2),
    "bitwise_xor": lambda m, x, y: aten.bitwise_xor.Tensor(x > 0, y > 0).float(),
    "clamp between": lambda m, x, y: aten.clamp.Tensor(x, torch.minimum(x, y), torch.maximum(y * 0.5, y)),
    "floor_divide": lambda m, x, y: aten.floor_divide.default(x, y),
    "dot products": lambda m, x, y: torch.einsum("bnc,bmc->bnm", x, y),
    "maximum": lambda m, x, y: aten.maximum.default(x, y),
    "minimum": lambda m, x, y: aten.minimum.default(x, y),
    "pow": lambda m, x, y: aten.pow.Tensor_Tensor(x.abs(), y),
    "where": lambda m, x, y: aten.where.self(x > y, x, y),
    "matmul": lambda m, x, y: aten.matmul.default(x, y.transpose(1, 2)),
    "bmm": lambda m, x, y: aten.bmm.default(x, y.transpose(1, 2)),
    "baddbmm": lambda m, x, y: aten.baddbmm.default(x[:, :, :4], x, y.transpose(1, 2)),
    "baddbmm scaled": lambda m, x, y: aten.baddbmm.default(x[:, :, :4], x, y.transpose(1, 2), beta=0.5, alpha=2),
    "cat": lambda m, x, y: aten.cat.default([x, y], -1),
    "cat, two dtypes": lambda m, x, y: aten.cat.default([x, (y > 0).long()], 1),
    "stack": lambda m, x, y: aten.stack.default([x, y], -1),
    "type_as": lambda m, x, y: aten.type_as.default(x, y.double()),
}  # fmt: skip
ON_IMAGE: dict[str, Callable[..., Any]] = {
    "conv2d": lambda m, x: aten.conv2d.default(x[:, :2], m.kernel, m.bias[:4], [2, 1], [1, 0], [1, 2]),
    "conv2d grouped": lambda m, x: aten.conv2d.default(x, m.kernel, None, [1, 1], [1, 1], [1, 1], 2),
    "conv2d same": lambda m, x: aten.conv2d.padding(x[:, :2], m.kernel, m.bias[:4], [1, 1], "same"),
    "conv2d valid": lambda m, x: aten.conv2d.padding(x[:, :2], m.kernel, None, [1, 1], "valid"),
    "conv1d": lambda m, x: aten.conv1d.default(x[:, :2, 0], m.kernel[:, :, 0], m.bias[:4], [1], [1]),
    "conv3d": lambda m, x: aten.conv3d.default(x[:, None], m.kernel[:, None], m.bias[:4], [2, 1, 1], [0, 1, 1]),
    "conv_transpose2d": lambda m, x: aten.conv_transpose2d.input(x, m.kernel, m.bias[:2], [2, 2], [1, 1], [1, 1]),
    "group_norm": lambda m, x: aten.group_norm.default(x, 2, m.row[:4], m.bias[:4], 1e-6),
    "max_pool2d": lambda m, x: aten.max_pool2d.default(x, [3, 3], [2, 2], [1, 1]),
    "max_pool2d ceil": lambda m, x: aten.max_pool2d.default(x, [3, 3], [2, 2], [0, 0], [1, 1], True),
    "avg_pool2d": lambda m, x: aten.avg_pool2d.default(x, [2, 2]),
    "avg_pool2d padded": lambda m, x: aten.avg_pool2d.default(x, [3, 3], [1, 1], [1, 1], False, False),
    "adaptive_avg_pool2d": lambda m, x: aten.adaptive_avg_pool2d.default(x, [2, 4]),
    "adaptive_avg_pool2d to one": lambda m, x: aten.adaptive_avg_pool2d.default(x, [1, 1]),
    "adaptive_avg_pool1d": lambda m, x: aten.adaptive_avg_pool1d.default(x[:, :, 0], [4]),
    "conv1d same": lambda m, x: aten.conv1d.padding(x[:, :2, 0], m.kernel[..., :2, 0], None, [1], "same", [2]),
    "conv3d same": lambda m, x: aten.conv3d.padding(x[:, None], m.kernel[:1, :1, None], None, [1, 1, 1], "same"),
    "conv without a batch": lambda m, x: aten.conv2d.default(x.mean(0)[:2], m.kernel, None) + 0 * x[:1, :1, 2:, 2:],
    "convolution": lambda m, x: aten.convolution.default(x, m.kernel, None, [2, 2], [1, 1], [1, 1], True, [1, 1], 1),
    "conv_transpose1d": lambda m, x: aten.conv_transpose1d.default(x[:, :, 0], m.kernel[..., 0]),
    "conv_transpose3d": lambda m, x: aten.conv_transpose3d.input(x[:, :, None], m.kernel[:, :, None]),
    "max_pool1d": lambda m, x: aten.max_pool1d.default(x[:, 0], [3], [2], [1], [1], True),
    "max_pool3d": lambda m, x: aten.max_pool3d.default(x, [2, 3, 3], [1, 2, 2], [1, 0, 0], [1, 1, 1], True),
    "max_pool2d_with_indices": lambda m, x: aten.max_pool2d_with_indices.default(x, [3, 3])[0],
    "avg_pool1d": lambda m, x: aten.avg_pool1d.default(x[:, 0], [3], [2], [1], True),
    "avg_pool3d": lambda m, x: aten.avg_pool3d.default(x[:, None], [2, 3, 3], [2, 2, 2], [1, 1, 1], True, False),
    "avg_pool2d divisor": lambda m, x: aten.avg_pool2d.default(x, [3, 3], [2, 2], [1, 1], True, True, 5),
    "avg_pool2d ceil": lambda m, x: aten.avg_pool2d.default(x, [3, 3], [2, 2], [1, 1], True, True),
    "adaptive_avg_pool2d uneven": lambda m, x: aten.adaptive_avg_pool2d.default(x, [3, 5]),
    "_adaptive_avg_pool2d": lambda m, x: aten._adaptive_avg_pool2d.default(x, [2, 4]),
    "adaptive_avg_pool3d": lambda m, x: aten.adaptive_avg_pool3d.default(x, [3, 5, 4]),
    "_adaptive_avg_pool3d": lambda m, x: aten._adaptive_avg_pool3d.default(x, [2, 2, 4]),
    "adaptive_max_pool1d": lambda m, x: nn.functional.adaptive_max_pool1d(x[:, 0], 3),
    "adaptive_max_pool2d": lambda m, x: nn.functional.adaptive_max_pool2d(x, (3, 4)),
    "adaptive_max_pool3d": lambda m, x: nn.functional.adaptive_max_pool3d(x, (3, 5, 4)),
    "im2col": lambda m, x: nn.functional.unfold(x, 3, padding=1, stride=2),
    "col2im": lambda m, x: nn.functional.fold(x.flatten(2)[:, :, :16], (5, 5), (2, 2)),
    "instance_norm": lambda m, x: nn.functional.instance_norm(x),
    "reflection_pad2d": lambda m, x: aten.reflection_pad2d.default(x, [1, 2, 0, 1]),
    "replication_pad2d": lambda m, x: aten.replication_pad2d.default(x, [1, 2, 0, 1]),
    "reflection_pad3d": lambda m, x: aten.reflection_pad3d.default(x[:, None], [1, 1, 1, 1, 1, 1]),
    "replication_pad3d": lambda m, x: aten.replication_pad3d.default(x[:, None], [1, 1, 1, 1, 1, 1]),
    **{f"resized {mode} {factor}": _resized(mode, factor)
       for mode in ("nearest", "nearest-exact", "bilinear", "bicubic") for factor in (1.3, 0.6, 2.0)},
    "resized rows": lambda m, x: nn.functional.interpolate(x[:, 0], scale_factor=1.7, mode="linear"),
    "resized rows, nearest": lambda m, x: nn.functional.interpolate(x[:, 0], 5, mode="nearest-exact"),
    "resized rows, plain": lambda m, x: nn.functional.interpolate(x[:, 0], 5, mode="nearest"),
    "resized boxes": lambda m, x: nn.functional.interpolate(x[:, None], (3, 5, 12), mode="trilinear"),
    "resized boxes, nearest": lambda m, x: nn.functional.interpolate(x[:, None], (3, 5, 12), mode="nearest"),
    "resized boxes, exact": lambda m, x: nn.functional.interpolate(x[:, None], (3, 5, 12), mode="nearest-exact"),
    "grid_sampler_2d": lambda m, x: aten.grid_sampler_2d.default(x, x[:, :2].permute(0, 2, 3, 1), 0, 0, True),
    "grid_sampler_3d": lambda m, x: aten.grid_sampler_3d.default(
        x[:, None], x[:, :3, None].permute(0, 2, 3, 4, 1).tanh(), 0, 0, False),
    "pixel_shuffle": lambda m, x: aten.pixel_shuffle.default(x, 2),
    "grid_sampler": lambda m, x: aten.grid_sampler.default(x, x[:, :2].permute(0, 2, 3, 1).tanh(), 0, 0, False),
    "grid_sampler border": lambda m, x: aten.grid_sampler.default(x, x[:, :2].permute(0, 2, 3, 1), 1, 1, True),
    "nearest": lambda m, x: aten.upsample_nearest2d.vec(x, [12, 16], None),
    "bilinear": lambda m, x: aten.upsample_bilinear2d.vec(x, [12, 5], False, None),
    "bilinear corners": lambda m, x: aten.upsample_bilinear2d.vec(x, [12, 5], True, None),
    "bicubic": lambda m, x: aten.upsample_bicubic2d.vec(x, [12, 5], False, None),
    "bilinear antialiased": lambda m, x: aten._upsample_bilinear2d_aa.vec(x, [4, 12], False, None),
    "bicubic antialiased": lambda m, x: aten._upsample_bicubic2d_aa.vec(x, [4, 12], False, None),
}  # fmt: skip
GROUPS = {"one tensor": (ONE, (X,)), "two tensors": (TWO, (X, X)), "an image": (ON_IMAGE, (IMAGE,))}
#: Not in a captured graph: made by passes or by torch's decompositions; and attention, which
#: tests/lowering/cpu/test_engines.py covers.
ELSEWHERE = {
    own.attention.default, own.attention_int8.default,
    aten.reshape.default, aten.flatten.using_ints, aten.unflatten.int, prims.trunc.default, prims.iota.default,
    prims.convert_element_type.default, prims.broadcast_in_dim.default, operator.mod,
    aten.contiguous.default, aten.lift_fresh_copy.default, aten.to.dtype,
    aten.bitwise_and.Scalar, aten.bitwise_or.Scalar, aten.__or__.Scalar, aten.__xor__.Scalar,
    *(t for t in emitter._handlers if "upsample" in str(t) and str(t).endswith("default")),  # the .vec forms have cases
}  # fmt: skip
#: Handlers that only refuse.
REFUSING = {aten.scaled_dot_product_attention.default}


def _lowered(function: Callable[..., Any], shapes: tuple[tuple[int, ...], ...]) -> tuple[nn.Module, Program, OnnxModel]:
    model = Call(function).eval()
    example = tuple(torch.randn(3, *shape) for shape in shapes)
    program = capture(model, vitc.load_target("cpu"), example)
    return model, program, lower(program.evolve(stage="tiled"))


def _session(model: OnnxModel) -> onnxruntime.InferenceSession:
    onnx.checker.check_model(model.proto, full_check=True)
    return onnxruntime.InferenceSession(model.proto.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("group", GROUPS)
def test_onnx_runtime_gives_what_pytorch_gives(group: str) -> None:
    """All of a group in one graph: one capture, one session."""
    cases, shapes = GROUPS[group]
    model, _, lowered = _lowered(lambda m, *inputs: {name: f(m, *inputs) for name, f in cases.items()}, shapes)
    session = _session(lowered)
    for batch in (3, 5):
        inputs = [torch.randn(batch, *shape) for shape in shapes]
        with torch.no_grad():
            wanted = [(name, t) for name, out in model(*inputs).items() for t in torch.utils._pytree.tree_leaves(out)]
        got = session.run(None, {s.name: t.numpy() for s, t in zip(lowered.inputs, inputs, strict=True)})
        for one, (name, want) in zip(got, wanted, strict=True):
            assert one.dtype == want.numpy().dtype, name
            np.testing.assert_allclose(one, want.numpy(), atol=2e-5, rtol=2e-5, err_msg=name)


def test_every_handler_has_a_case() -> None:
    def everything(m: Call, x: Tensor, y: Tensor, image: Tensor) -> Any:
        given = {"one tensor": (x,), "two tensors": (x, y), "an image": (image,)}
        return [f(m, *given[group]) for group, (cases, _) in GROUPS.items() for f in cases.values()]

    program = capture(
        Call(everything).eval(), vitc.load_target("cpu"), tuple(torch.randn(3, *s) for s in (X, X, IMAGE))
    )
    seen = {n.target for n in program.graph.nodes if n.op == "call_function"}
    assert sorted(str(target) for target in set(emitter._handlers) - seen - ELSEWHERE - REFUSING) == []


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda m, x: aten.lgamma.default(x.abs()), "has no ONNX form in vitc, nor has prims.lgamma"),
        (lambda m, x: torch.kthvalue(x, 2)[0], r"kthvalue.default. has no ONNX form"),
        (lambda m, x: aten.scatter_reduce.two(x, 2, (x > 0).long(), x, "mean"), "scatters with reduce=mean"),
        (lambda m, x: aten.max_pool2d_with_indices.default(x, [2, 2])[1], "a result of aten.max_pool2d_with_indices"),
        (
            lambda m, x: aten.scaled_dot_product_attention.default(x, x, x),
            "is not tiled; run the pass 'tile-attention'",
        ),
    ],
)
def test_what_cannot_be_lowered_says_why(function: Callable[..., Any], message: str) -> None:
    with pytest.raises(LoweringError, match=message):
        _lowered(function, (X,))


def test_a_program_that_is_not_tiled_is_refused() -> None:
    program = capture(Call(lambda m, x: x + 1).eval(), vitc.load_target("cpu"), (torch.randn(2, 3),))
    with pytest.raises(
        LoweringError, match="lowering needs stage 'tiled' or 'quantized', the program is at 'captured'"
    ):
        lower(program)


def test_a_weight_that_serves_twice_is_stored_once_in_each_form() -> None:
    def function(m: Call, x: Tensor) -> Any:
        return aten.linear.default(x, m.weight), aten.linear.default(2 * x, m.weight), x[:, :1] * m.weight[:1]

    model, _, lowered = _lowered(function, (X,))
    stored = {i.name: tuple(i.dims) for i in lowered.proto.graph.initializer if "weight" in i.name}
    assert stored == {"weight": (6, 5), "weight_1": (5, 6)}
    x = torch.randn(2, *X)
    got = _session(lowered).run(None, {lowered.inputs[0].name: x.numpy()})
    for one, want in zip(got, model(x), strict=True):
        np.testing.assert_allclose(one, want.detach().numpy(), atol=1e-5)


def test_literals_are_shared_only_if_all_their_values_agree() -> None:
    def function(m: Call, x: Tensor) -> Any:
        return x.reshape(-1, 2, 3, 2, 2), x.reshape(-1, 2, 3, 2, 2), x.reshape(-1, 2, 3, 1, 4)

    _, _, lowered = _lowered(function, (X,))
    shapes = [i for i in lowered.proto.graph.initializer if i.name.startswith("const/int64")]
    assert len(shapes) == 2
