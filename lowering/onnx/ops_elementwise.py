"""Elementwise arithmetic, comparisons and logic."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.fx import Node

from vitc.graph.nodes import val, where
from vitc.lowering.onnx.arguments import Refused
from vitc.lowering.onnx.emitter import Emitter, emits

aten, prims = torch.ops.aten, torch.ops.prims

#: Integers in which engines have no arithmetic; they compute in INT32 and come back.
_NARROW = (torch.bool, torch.uint8, torch.int8, torch.int16)

_UNARY = {
    aten.exp: "Exp", aten.log: "Log", aten.sqrt: "Sqrt", aten.neg: "Neg", aten.abs: "Abs", aten.erf: "Erf",
    aten.tanh: "Tanh", aten.sigmoid: "Sigmoid", aten.relu: "Relu", aten.sin: "Sin", aten.cos: "Cos", aten.tan: "Tan",
    aten.asin: "Asin", aten.acos: "Acos", aten.atan: "Atan", aten.sinh: "Sinh", aten.cosh: "Cosh",
    aten.asinh: "Asinh", aten.acosh: "Acosh", aten.atanh: "Atanh", aten.reciprocal: "Reciprocal",
    aten.hardswish: "HardSwish", aten.sign: "Sign", aten.sgn: "Sign", aten.mish: "Mish",
    aten.clone: "Identity", aten.alias: "Identity", aten.detach: "Identity", aten.contiguous: "Identity",
    aten.lift_fresh_copy: "Identity",
}  # fmt: skip
_UNARY_OVERLOADS = {packet.default: op for packet, op in _UNARY.items()}


@emits(*_UNARY_OVERLOADS)
def _unary(e: Emitter, node: Node, x: Any) -> str:
    dtype = val(node).dtype
    compute = torch.int32 if dtype in _NARROW and _UNARY_OVERLOADS[node.target] != "Identity" else dtype  # type: ignore[index]
    result = e.op(_UNARY_OVERLOADS[node.target], [e.operand(x, compute)])  # type: ignore[index]
    return result if compute == dtype else e.cast(result, dtype)


_ROUNDING = {aten.floor.default: "Floor", aten.ceil.default: "Ceil", aten.round.default: "Round"}


@emits(*_ROUNDING)
def _rounded(e: Emitter, node: Node, x: Any) -> str:
    op = _ROUNDING[node.target] if val(node).is_floating_point() else "Identity"  # type: ignore[index]
    return e.op(op, [e.value(x)])


@emits(aten.trunc.default, aten.fix.default, prims.trunc.default)
def _trunc(e: Emitter, node: Node, x: Any) -> str:
    return _toward_zero(e, e.value(x), val(node).dtype) if val(node).is_floating_point() else e.value(x)


def _toward_zero(e: Emitter, name: str, dtype: torch.dtype) -> str:
    negative = e.op("Less", [name, e.const(0, dtype)])
    return e.op("Where", [negative, e.op("Ceil", [name]), e.op("Floor", [name])])


@emits(aten.log2.default, aten.log10.default)
def _log_of_base(e: Emitter, node: Node, x: Any) -> str:
    dtype = val(node).dtype
    base = 2.0 if node.target is aten.log2.default else 10.0
    return e.op("Div", [e.op("Log", [e.operand(x, dtype)]), e.const(math.log(base), dtype)])


@emits(aten.exp2.default)
def _exp2(e: Emitter, node: Node, x: Any) -> str:
    dtype = val(node).dtype
    return e.op("Pow", [e.const(2, dtype), e.operand(x, dtype)])


@emits(aten.expm1.default)
def _expm1(e: Emitter, node: Node, x: Any) -> str:
    """As 2·sinh(x/2)·exp(x/2): no cancellation near zero."""
    dtype = val(node).dtype
    half = e.op("Mul", [e.operand(x, dtype), e.const(0.5, dtype)])
    return e.op("Mul", [e.op("Mul", [e.const(2, dtype), e.op("Sinh", [half])]), e.op("Exp", [half])])


@emits(aten.log1p.default)
def _log1p(e: Emitter, node: Node, x: Any) -> str:
    dtype = val(node).dtype
    return e.op("Log", [e.op("Add", [e.operand(x, dtype), e.const(1, dtype)])])


@emits(aten.erfc.default)
def _erfc(e: Emitter, node: Node, x: Any) -> str:
    dtype = val(node).dtype
    return e.op("Sub", [e.const(1, dtype), e.op("Erf", [e.operand(x, dtype)])])


@emits(aten.logical_not.default, aten.bitwise_not.default)
def _not(e: Emitter, node: Node, x: Any) -> str:
    if val(node).dtype == torch.bool:
        return e.op("Not", [e.operand(x, torch.bool)])
    return e.op("BitwiseNot", [e.value(x)])


@emits(aten.isnan.default, aten.isinf.default)
def _is_special(e: Emitter, node: Node, x: Any) -> str:
    if not val(x).is_floating_point():
        return e.op("And", [e.operand(x, torch.bool), e.const(False)])
    if node.target is aten.isnan.default:
        return e.op("IsNaN", [e.value(x)])
    return _is_infinite(e, e.op("Abs", [e.value(x)]), 1, val(x).dtype)


def _is_infinite(e: Emitter, name: str, sign: int, dtype: torch.dtype) -> str:
    """Beyond the largest number: OpenVINO's Equal holds no two infinities for equal."""
    largest = e.const(sign * torch.finfo(dtype).max, dtype)
    return e.op("Greater" if sign > 0 else "Less", [name, largest])


# --- two operands ---------------------------------------------------------------------------------------------------

_BINARY = {
    aten.add: ("Add", "Or"), aten.sub: ("Sub", ""), aten.mul: ("Mul", "And"), aten.div: ("Div", ""),
}  # fmt: skip
_BINARY_OVERLOADS = {
    **{getattr(packet, o): ops for packet, ops in _BINARY.items() for o in ("Tensor", "Scalar")},
    aten.maximum.default: ("Max", "Or"), aten.minimum.default: ("Min", "And"),
}  # fmt: skip


def _arithmetic(e: Emitter, op: str, operands: list[Any], dtype: torch.dtype) -> str:
    """An operator in `dtype`, whose engines have it in floats, INT32 and INT64."""
    compute = torch.int32 if dtype in _NARROW else dtype
    result = e.op(op, [o if isinstance(o, str) else e.operand(o, compute) for o in operands])
    return result if compute == dtype else e.cast(result, dtype)


@emits(aten.add.Tensor, aten.add.Scalar, aten.sub.Tensor, aten.sub.Scalar, aten.mul.Tensor, aten.mul.Scalar,
       aten.div.Tensor, aten.div.Scalar, aten.maximum.default, aten.minimum.default)  # fmt: skip
def _binary(e: Emitter, node: Node, x: Any, other: Any, alpha: Any = 1) -> str:
    dtype = val(node).dtype
    op, of_booleans = _BINARY_OVERLOADS[node.target]
    if dtype == torch.bool:
        return e.op(of_booleans, [e.operand(x, dtype), e.operand(other if alpha else False, dtype)])
    if alpha != 1:
        other = _arithmetic(e, "Mul", [other, alpha], torch.int32 if dtype in _NARROW else dtype)
    return _arithmetic(e, op, [x, other], dtype)


@emits(aten.pow.Tensor_Scalar, aten.pow.Tensor_Tensor, aten.pow.Scalar)
def _pow(e: Emitter, node: Node, x: Any, exponent: Any) -> str:
    """Small whole powers as products: engines compute Pow by logarithms, that of integers in floats."""
    dtype = val(node).dtype
    whole = isinstance(exponent, (int, float)) and exponent == int(exponent) and 0 < exponent <= 4
    if whole and isinstance(x, Node):
        compute = torch.int32 if dtype in _NARROW else dtype
        result = base = e.operand(x, compute)
        for _ in range(int(exponent) - 1):
            result = e.op("Mul", [result, base])
        return result if compute == dtype else e.cast(result, dtype)
    if not dtype.is_floating_point:
        raise Refused(f"{where(node)} raises integers to the power {exponent}")
    return e.op("Pow", [e.operand(x, dtype), e.operand(exponent, dtype)])


@emits(aten.rsub.Scalar, aten.rsub.Tensor)
def _rsub(e: Emitter, node: Node, x: Any, other: Any, alpha: Any) -> str:
    dtype = val(node).dtype
    if alpha != 1:
        x = _arithmetic(e, "Mul", [x, alpha], torch.int32 if dtype in _NARROW else dtype)
    return _arithmetic(e, "Sub", [other, x], dtype)


@emits(aten.div.Tensor_mode, aten.div.Scalar_mode, aten.floor_divide.default)
def _rounded_division(e: Emitter, node: Node, x: Any, other: Any, rounding_mode: Any = "floor") -> str:
    dtype = val(node).dtype
    if rounding_mode is None:
        return _arithmetic(e, "Div", [x, other], dtype)
    if not dtype.is_floating_point:
        compute = torch.int32 if dtype in _NARROW else dtype
        quotient = _whole_division(e, e.operand(x, compute), e.operand(other, compute), rounding_mode == "trunc")
        return quotient if compute == dtype else e.cast(quotient, dtype)
    a, b = e.operand(x, dtype), e.operand(other, dtype)
    quotient = e.op("Div", [a, b])
    if rounding_mode == "trunc":
        return _toward_zero(e, quotient, dtype)
    # As torch: through the remainder, so that 0.9 // 0.3 is what Python says.
    remainder = _python_mod(e, a, b, dtype)
    exact = e.op("Round", [e.op("Div", [e.op("Sub", [a, remainder]), b])])
    return e.op("Where", [e.op("Equal", [b, e.const(0, dtype)]), quotient, exact])


def _whole_division(e: Emitter, a: str, b: str, toward_zero: bool) -> str:
    """Of integers, through the remainder: engines round a quotient that is not whole in their own ways."""
    remainder = e.op("Mod", [a, b], fmod=1) if toward_zero else e.op("Mod", [a, b])
    return e.op("Div", [e.op("Sub", [a, remainder]), b])


def _python_mod(e: Emitter, a: str, b: str, dtype: torch.dtype) -> str:
    """The remainder with the sign of the divisor."""
    remainder, zero = e.op("Mod", [a, b], fmod=1), e.const(0, dtype)
    other_sign = e.op("Xor", [e.op("Less", [remainder, zero]), e.op("Less", [b, zero])])
    moves = e.op("And", [other_sign, e.op("Not", [e.op("Equal", [remainder, zero])])])
    return e.op("Where", [moves, e.op("Add", [remainder, b]), remainder])


@emits(aten.remainder.Tensor, aten.remainder.Scalar, aten.remainder.Scalar_Tensor, aten.fmod.Tensor, aten.fmod.Scalar)
def _remainder(e: Emitter, node: Node, x: Any, other: Any) -> str:
    dtype = val(node).dtype
    compute = torch.int32 if dtype in _NARROW else dtype
    a, b = e.operand(x, compute), e.operand(other, compute)
    if node.target in (aten.fmod.Tensor, aten.fmod.Scalar):
        result = e.op("Mod", [a, b], fmod=1)
    else:
        result = _python_mod(e, a, b, dtype) if dtype.is_floating_point else e.op("Mod", [a, b])
    return result if compute == dtype else e.cast(result, dtype)


_COMPARE = {
    aten.eq: "Equal", aten.ne: "Equal", aten.gt: "Greater", aten.ge: "GreaterOrEqual", aten.lt: "Less",
    aten.le: "LessOrEqual",
}  # fmt: skip
_COMPARE_OVERLOADS = {getattr(packet, o): op for packet, op in _COMPARE.items() for o in ("Tensor", "Scalar")}


@emits(*_COMPARE_OVERLOADS)
def _compare(e: Emitter, node: Node, x: Any, other: Any) -> str:
    a, b = (val(side) if isinstance(side, Node) and "val" in side.meta else side for side in (x, other))
    dtype = torch.result_type(a, b)
    dtype = torch.int32 if dtype in _NARROW else dtype
    op = _COMPARE_OVERLOADS[node.target]
    if op == "Equal" and isinstance(other, float) and math.isinf(other) and dtype.is_floating_point:
        result = _is_infinite(e, e.operand(x, dtype), 1 if other > 0 else -1, dtype)
    else:
        result = e.op(op, [e.operand(x, dtype), e.operand(other, dtype)])
    return e.op("Not", [result]) if node.target in (aten.ne.Tensor, aten.ne.Scalar) else result


_LOGIC = {
    aten.logical_and.default: "And", aten.logical_or.default: "Or", aten.logical_xor.default: "Xor",
    **{getattr(packet, o): op for packet, op in ((aten.bitwise_and, "And"), (aten.bitwise_or, "Or"),
       (aten.bitwise_xor, "Xor"), (aten.__and__, "And"), (aten.__or__, "Or"), (aten.__xor__, "Xor"))
       for o in ("Tensor", "Scalar")},
}  # fmt: skip


@emits(*_LOGIC)
def _logic(e: Emitter, node: Node, x: Any, other: Any) -> str:
    dtype = val(node).dtype
    op = _LOGIC[node.target] if dtype == torch.bool else f"Bitwise{_LOGIC[node.target]}"
    return e.op(op, [e.operand(x, dtype), e.operand(other, dtype)])


@emits(aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf, aten.where.Scalar)
def _where(e: Emitter, node: Node, condition: Any, x: Any, other: Any) -> str:
    dtype = val(node).dtype
    return choice(e, e.operand(condition, torch.bool), e.operand(x, dtype), e.operand(other, dtype), dtype)


def choice(e: Emitter, condition: str, a: str, b: str, dtype: torch.dtype) -> str:
    """Where, which ONNX Runtime has not for booleans."""
    if dtype != torch.bool:
        return e.op("Where", [condition, a, b])
    return e.op("Or", [e.op("And", [condition, a]), e.op("And", [e.op("Not", [condition]), b])])


@emits(aten.masked_fill.Scalar, aten.masked_fill.Tensor)
def _masked_fill(e: Emitter, node: Node, x: Any, mask: Any, value: Any) -> str:
    dtype = val(node).dtype
    return choice(e, e.value(mask), e.operand(value, dtype), e.value(x), dtype)


# --- activations ----------------------------------------------------------------------------------------------------


@emits(aten.rsqrt.default)
def _rsqrt(e: Emitter, node: Node, x: Any) -> str:
    return e.op("Reciprocal", [e.op("Sqrt", [e.operand(x, val(node).dtype)])])


@emits(aten.square.default)
def _square(e: Emitter, node: Node, x: Any) -> str:
    return _arithmetic(e, "Mul", [x, x], val(node).dtype)


@emits(aten.silu.default)
def _silu(e: Emitter, node: Node, x: Any) -> str:
    name = e.value(x)
    return e.op("Mul", [name, e.op("Sigmoid", [name])])


@emits(aten.hardsigmoid.default)
def _hardsigmoid(e: Emitter, node: Node, x: Any) -> str:
    return e.op("HardSigmoid", [e.value(x)], alpha=1 / 6, beta=0.5)


@emits(aten.gelu.default)
def _gelu(e: Emitter, node: Node, x: Any, approximate: str) -> str:
    return e.op("Gelu", [e.value(x)], approximate=approximate)


@emits(aten.softplus.default)
def _softplus(e: Emitter, node: Node, x: Any, beta: float, threshold: float) -> str:
    """softplus(β·x) / β, and x itself where β·x exceeds the threshold."""
    name, dtype = e.value(x), val(node).dtype
    scaled = name if beta == 1 else e.op("Mul", [name, e.const(beta, dtype)])
    soft = e.op("Softplus", [scaled])
    if beta != 1:
        soft = e.op("Div", [soft, e.const(beta, dtype)])
    return e.op("Where", [e.op("Greater", [scaled, e.const(threshold, dtype)]), name, soft])


@emits(aten.elu.default)
def _elu(e: Emitter, node: Node, x: Any, alpha: float, scale: float, input_scale: float) -> str:
    name, dtype = e.value(x), val(node).dtype
    if (scale, input_scale) == (1, 1):
        return e.op("Elu", [name], alpha=float(alpha))
    curve = e.op("Elu", [e.op("Mul", [name, e.const(input_scale, dtype)])], alpha=float(alpha))
    both = e.op("Where", [e.op("Greater", [name, e.const(0, dtype)]), name, curve])
    return e.op("Mul", [both, e.const(scale, dtype)])


@emits(aten.leaky_relu.default)
def _leaky_relu(e: Emitter, node: Node, x: Any, negative_slope: float) -> str:
    return e.op("LeakyRelu", [e.value(x)], alpha=float(negative_slope))


@emits(aten.clamp.default, aten.clamp_min.default, aten.clamp_max.default, aten.hardtanh.default,
       aten.clamp.Tensor, aten.clamp_min.Tensor, aten.clamp_max.Tensor)  # fmt: skip
def _clamp(
    e: Emitter, node: Node, x: Any, min: Any = None, max: Any = None, min_val: Any = None, max_val: Any = None
) -> str:
    """The upper bound is applied last: where the bounds cross it wins, as in torch."""
    dtype = val(node).dtype
    result: Any = x
    for op, bound in (("Max", min if min_val is None else min_val), ("Min", max if max_val is None else max_val)):
        if bound is not None:
            result = _arithmetic(e, op, [result, bound], torch.int32 if dtype in _NARROW else dtype)
    if dtype in _NARROW and isinstance(result, str):
        return e.cast(result, dtype)
    return result if isinstance(result, str) else e.operand(result, dtype)


@emits(aten.glu.default)
def _glu(e: Emitter, node: Node, x: Any, dim: int) -> str:
    a, b = e.ops("Split", [e.value(x)], 2, axis=int(dim), num_outputs=2)
    return e.op("Mul", [a, e.op("Sigmoid", [b])])


@emits(aten._to_copy.default, aten.type_as.default, aten.to.dtype, prims.convert_element_type.default,
       settled=("dtype", "other", "copy"))  # fmt: skip
def _cast(e: Emitter, node: Node, x: Any) -> str:
    """To an integer torch cuts off what stands behind the point; to a boolean all but 0 is true."""
    dtype = val(node).dtype
    name = e.value(x)
    if val(x).is_floating_point() and dtype == torch.bool:
        return e.op("Not", [e.op("Equal", [name, e.const(0, val(x).dtype)])])
    return e.cast(name, dtype)
