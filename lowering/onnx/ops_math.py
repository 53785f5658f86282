"""Elementwise arithmetic, comparisons and reductions."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from vitc.errors import LoweringError
from vitc.graph.nodes import shape_of, val, where
from vitc.lowering.onnx.emitter import Emitter, emits, literal

aten = torch.ops.aten

_UNARY = {
    aten.exp.default: "Exp", aten.log.default: "Log", aten.sqrt.default: "Sqrt", aten.neg.default: "Neg",
    aten.abs.default: "Abs", aten.erf.default: "Erf", aten.tanh.default: "Tanh", aten.sigmoid.default: "Sigmoid",
    aten.relu.default: "Relu", aten.sin.default: "Sin", aten.cos.default: "Cos", aten.floor.default: "Floor",
    aten.ceil.default: "Ceil", aten.round.default: "Round", aten.reciprocal.default: "Reciprocal",
    aten.logical_not.default: "Not", aten.bitwise_not.default: "Not", aten.hardswish.default: "HardSwish",
    aten.clone.default: "Identity", aten.alias.default: "Identity",
}  # fmt: skip


@emits(*_UNARY)
def _unary(e: Emitter, node: Node) -> str:
    return e.op(_UNARY[node.target], [e.value(node.args[0])])  # type: ignore[index]


_BINARY = {
    aten.add.Tensor: "Add", aten.sub.Tensor: "Sub", aten.mul.Tensor: "Mul", aten.div.Tensor: "Div",
    aten.maximum.default: "Max", aten.minimum.default: "Min", aten.pow.Tensor_Scalar: "Pow",
    aten.pow.Tensor_Tensor: "Pow", aten.add.Scalar: "Add", aten.mul.Scalar: "Mul", aten.sub.Scalar: "Sub",
    aten.div.Scalar: "Div",
}  # fmt: skip


@emits(*_BINARY)
def _binary(e: Emitter, node: Node) -> str:
    left, right = node.args[:2]
    dtype = val(node).dtype
    alpha = literal(node, 2, "alpha", 1)
    b = e.operand(right, dtype)
    if alpha != 1:
        b = e.op("Mul", [b, e.const(alpha, dtype)])
    return e.op(_BINARY[node.target], [e.operand(left, dtype), b])  # type: ignore[index]


@emits(aten.rsub.Scalar, aten.rsub.Tensor)
def _rsub(e: Emitter, node: Node) -> str:
    dtype = val(node).dtype
    return e.op("Sub", [e.operand(node.args[1], dtype), e.operand(node.args[0], dtype)])


@emits(aten.rsqrt.default)
def _rsqrt(e: Emitter, node: Node) -> str:
    return e.op("Reciprocal", [e.op("Sqrt", [e.value(node.args[0])])])


@emits(aten.square.default)
def _square(e: Emitter, node: Node) -> str:
    return e.op("Mul", [e.value(node.args[0])] * 2)


@emits(aten.silu.default)
def _silu(e: Emitter, node: Node) -> str:
    x = e.value(node.args[0])
    return e.op("Mul", [x, e.op("Sigmoid", [x])])


@emits(aten.hardsigmoid.default)
def _hardsigmoid(e: Emitter, node: Node) -> str:
    return e.op("HardSigmoid", [e.value(node.args[0])], alpha=1 / 6, beta=0.5)


@emits(aten.gelu.default)
def _gelu(e: Emitter, node: Node) -> str:
    return e.op("Gelu", [e.value(node.args[0])], approximate=literal(node, 1, "approximate", "none"))


@emits(aten.softplus.default)
def _softplus(e: Emitter, node: Node) -> str:
    beta = literal(node, 1, "beta", 1)
    if beta != 1:
        raise LoweringError(f"{where(node)} is a softplus with beta {beta}; only beta 1 has an ONNX form")
    return e.op("Softplus", [e.value(node.args[0])])


@emits(aten.elu.default)
def _elu(e: Emitter, node: Node) -> str:
    if literal(node, 2, "scale", 1) != 1 or literal(node, 3, "input_scale", 1) != 1:
        raise LoweringError(f"{where(node)} scales an ELU (SELU, CELU); only the plain ELU has an ONNX form here")
    return e.op("Elu", [e.value(node.args[0])], alpha=float(literal(node, 1, "alpha", 1.0)))


@emits(aten.leaky_relu.default)
def _leaky_relu(e: Emitter, node: Node) -> str:
    return e.op("LeakyRelu", [e.value(node.args[0])], alpha=float(literal(node, 1, "negative_slope", 0.01)))


@emits(aten.clamp.default, aten.clamp_min.default, aten.clamp_max.default, aten.hardtanh.default)
def _clamp(e: Emitter, node: Node) -> str:
    low, high = literal(node, 1, "min", None), literal(node, 2, "max", None)
    if node.target is aten.clamp_max.default:
        low, high = None, node.args[1]
    if node.target is aten.hardtanh.default:
        low, high = literal(node, 1, "min_val", -1.0), literal(node, 2, "max_val", 1.0)
    dtype = val(node).dtype
    return e.op("Clip", [e.value(node.args[0]), *("" if b is None else e.operand(b, dtype) for b in (low, high))])


_COMPARE = {
    aten.eq: "Equal", aten.gt: "Greater", aten.ge: "GreaterOrEqual", aten.lt: "Less", aten.le: "LessOrEqual",
}  # fmt: skip
_COMPARE_OVERLOADS = {getattr(packet, o): op for packet, op in _COMPARE.items() for o in ("Tensor", "Scalar")}


@emits(*_COMPARE_OVERLOADS)
def _compare(e: Emitter, node: Node) -> str:
    left, right = node.args
    a, b = (val(side) if isinstance(side, Node) else side for side in (left, right))
    dtype = torch.result_type(a, b)  # type: ignore[arg-type]  # a number, if not a tensor
    return e.op(_COMPARE_OVERLOADS[node.target], [e.operand(left, dtype), e.operand(right, dtype)])


@emits(aten.ne.Tensor, aten.ne.Scalar)
def _not_equal(e: Emitter, node: Node) -> str:
    dtype = val(node.args[0]).dtype  # type: ignore[arg-type]
    return e.op("Not", [e.op("Equal", [e.operand(a, dtype) for a in node.args])])


_LOGIC = {
    aten.logical_and.default: "And", aten.bitwise_and.Tensor: "And", aten.logical_or.default: "Or",
    aten.bitwise_or.Tensor: "Or", aten.logical_xor.default: "Xor",
}  # fmt: skip


@emits(*_LOGIC)
def _logic(e: Emitter, node: Node) -> str:
    return e.op(_LOGIC[node.target], [e.operand(a, torch.bool) for a in node.args])  # type: ignore[index]


@emits(aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf)
def _where(e: Emitter, node: Node) -> str:
    condition, a, b = node.args
    return e.op("Where", [e.value(condition), e.operand(a, val(node).dtype), e.operand(b, val(node).dtype)])


@emits(aten.masked_fill.Scalar, aten.masked_fill.Tensor)
def _masked_fill(e: Emitter, node: Node) -> str:
    x, mask, number = node.args
    return e.op("Where", [e.value(mask), e.operand(number, val(node).dtype), e.value(x)])


_REDUCE = {
    aten.mean.dim: "ReduceMean", aten.mean.default: "ReduceMean", aten.sum.dim_IntList: "ReduceSum",
    aten.sum.default: "ReduceSum", aten.amax.default: "ReduceMax", aten.amin.default: "ReduceMin",
}  # fmt: skip


@emits(*_REDUCE)
def _reduce(e: Emitter, node: Node) -> str:
    x = e.operand(node.args[0], val(node).dtype)
    dims: Any = literal(node, 1, "dim", None)
    keep = int(bool(literal(node, 2, "keepdim", False)))
    rank = len(shape_of(node.args[0]))  # type: ignore[arg-type]
    axes = [d % rank for d in dims] if dims else list(range(rank))
    return e.op(_REDUCE[node.target], [x, e.ints(axes)], keepdims=keep)  # type: ignore[index]


@emits(aten.linalg_vector_norm.default)
def _vector_norm(e: Emitter, node: Node) -> str:
    order, dims = literal(node, 1, "ord", 2), literal(node, 2, "dim", None)
    rank = len(shape_of(node.args[0]))  # type: ignore[arg-type]
    axes = (
        [d % rank for d in (dims if isinstance(dims, (list, tuple)) else [dims])]
        if dims is not None
        else list(range(rank))
    )
    kinds = {1: "ReduceL1", 2: "ReduceL2"}
    if order not in kinds:
        raise LoweringError(f"{where(node)} is a norm of order {order}; orders 1 and 2 have an ONNX form")
    return e.op(
        kinds[order], [e.value(node.args[0]), e.ints(axes)], keepdims=int(bool(literal(node, 3, "keepdim", False)))
    )


@emits(aten.var.correction, aten.var_mean.correction)
def _variance(e: Emitter, node: Node) -> Any:
    x, dims = e.value(node.args[0]), list(literal(node, 1, "dim", None))
    shape = shape_of(node.args[0])  # type: ignore[arg-type]
    axes = [d % len(shape) for d in dims]
    count = 1
    for axis in axes:
        count *= int(shape[axis])
    dtype = (node.meta["val"][0] if isinstance(node.meta["val"], tuple) else val(node)).dtype
    keep = int(bool(node.kwargs.get("keepdim", False)))
    mean = e.op("ReduceMean", [x, e.ints(axes)], keepdims=1)
    centred = e.op("Sub", [x, mean])
    total = e.op("ReduceSum", [e.op("Mul", [centred, centred]), e.ints(axes)], keepdims=keep)
    correction = node.kwargs.get("correction", 1)
    variance = e.op("Div", [total, e.const(count - (1 if correction is None else correction), dtype)])  # type: ignore[operator]
    if node.target is aten.var.correction:
        return variance
    return variance, mean if keep else e.op("Squeeze", [mean, e.ints(axes)])


@emits(aten.cumsum.default)
def _cumsum(e: Emitter, node: Node) -> str:
    return e.op("CumSum", [e.operand(node.args[0], val(node).dtype), e.const(node.args[1], torch.int64)])


@emits(aten.max.dim, aten.min.dim)
def _extreme(e: Emitter, node: Node) -> tuple[str, str]:
    maximum = node.target is aten.max.dim
    axis = int(node.args[1]) % len(shape_of(node.args[0]))  # type: ignore[arg-type]
    keep = int(bool(literal(node, 2, "keepdim", False)))
    x = e.value(node.args[0])
    values = e.op("ReduceMax" if maximum else "ReduceMin", [x, e.ints([axis])], keepdims=keep)
    return values, e.op("ArgMax" if maximum else "ArgMin", [x], axis=axis, keepdims=keep)


@emits(aten.argmax.default)
def _argmax(e: Emitter, node: Node) -> str:
    return e.op(
        "ArgMax",
        [e.value(node.args[0])],
        axis=int(literal(node, 1, "dim", -1)),
        keepdims=int(literal(node, 2, "keepdim", False)),
    )


@emits(aten.matmul.default, aten.bmm.default, aten.mm.default)
def _matmul(e: Emitter, node: Node) -> str:
    return e.op("MatMul", [e.value(a) for a in node.args])


@emits(aten.baddbmm.default, aten.addmm.default)
def _addmm(e: Emitter, node: Node) -> str:
    dtype = val(node).dtype
    product, added = e.op("MatMul", [e.value(a) for a in node.args[1:3]]), e.value(node.args[0])
    if (alpha := node.kwargs.get("alpha", 1)) != 1:
        product = e.op("Mul", [product, e.const(alpha, dtype)])
    if (beta := node.kwargs.get("beta", 1)) != 1:
        added = e.op("Mul", [added, e.const(beta, dtype)])
    return e.op("Add", [product, added])


@emits(aten.einsum.default)
def _einsum(e: Emitter, node: Node) -> str:
    return e.op("Einsum", [e.value(t) for t in node.args[1]], equation=str(node.args[0]).replace(" ", ""))  # type: ignore[union-attr]


@emits(aten.softmax.int, aten._softmax.default)
def _softmax(e: Emitter, node: Node) -> str:
    return e.op("Softmax", [e.operand(node.args[0], val(node).dtype)], axis=int(node.args[1]))  # type: ignore[arg-type]


@emits(aten.log_softmax.int)
def _log_softmax(e: Emitter, node: Node) -> str:
    return e.op("LogSoftmax", [e.value(node.args[0])], axis=int(node.args[1]))  # type: ignore[arg-type]


@emits(aten.glu.default)
def _glu(e: Emitter, node: Node) -> str:
    a, b = e.ops("Split", [e.value(node.args[0])], 2, axis=int(literal(node, 1, "dim", -1)), num_outputs=2)
    return e.op("Mul", [a, e.op("Sigmoid", [b])])
