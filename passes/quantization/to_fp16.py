"""to-fp16: half precision where it is safe, FP32 where it is not, with every cast explicit.

Without data the safe set is by construction: LayerNorm, softmax, reductions and residual adds (whose range grows with
depth) stay in FP32; GEMMs, convolutions, attention and what is elementwise between them run in FP16. With calibration
data what was seen counts too: an operator whose result or operand comes within a factor of two of FP16's end, or lies
wholly among its subnormal numbers, stays in FP32, and the report names it. A weight beyond FP16's range does so without
data.

INT8 GEMMs keep FP32 scales and an FP32 result. With FP16 scales TensorRT stores the raw INT32 sums in FP16 before it
scales them, and sums beyond 65504 become infinite; docs/decisions/0010-tensorrt-spelling.md has the measurement.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.fx import Node
from torch.fx.node import map_arg

from vitc.graph import Rewriter, constant, is_constant
from vitc.graph.attention_call import AttentionCall, is_attention
from vitc.graph.movement import MOVEMENT, SPLITTING
from vitc.graph.nodes import argument, is_tensor, operand, val, where
from vitc.graph.printer import op_name
from vitc.graph.program import Program
from vitc.passes.quantization.observe.peaks import with_peaks
from vitc.pipeline import Pass, register_pass

aten, ops = torch.ops.aten, torch.ops.vitc

_LARGEST, _SMALLEST_NORMAL = torch.finfo(torch.float16).max, torch.finfo(torch.float16).tiny
#: Between what calibration saw and what may come.
_HEADROOM = 2.0
#: Compute-bound or bounded: FP16.
_HALF = {
    "aten.linear", "aten.conv2d", "aten.matmul", "aten.bmm", "vitc.attention", "vitc.attention_int8",
}  # fmt: skip
#: Takes the dtype of what the GEMM before it gives.
_POINTWISE = {"aten.gelu", "aten.silu", "aten.relu", "aten.sigmoid", "aten.tanh", "aten.hardswish"}
#: Takes the dtype of what it moves.
_FOLLOWS = {str(t).removesuffix(".default") for t in MOVEMENT | SPLITTING} | {
    "aten.cat", "aten.stack", "aten.roll", "aten.pad", "aten.constant_pad_nd", "aten.neg",
    "aten.index.Tensor", "aten.repeat",
}  # fmt: skip


@register_pass
@dataclass(frozen=True)
class ToFp16(Pass):
    """Turns operators to FP16 where that is safe, with every cast explicit.

    The program's inputs and outputs keep their dtypes; the weights of FP16 operators are stored in FP16.
    """

    name = "to-fp16"
    needs = "tiled"
    after = ("quantize-int8",)

    def run(self, program: Program) -> Program:
        program = with_peaks(program)
        caster = _Caster(Rewriter(program.module, self.name))
        counts = {torch.float16: 0, torch.float32: 0}
        unsafe: dict[str, str] = {}
        for node in list(program.graph.nodes):
            if node.op == "output":
                caster.restore_outputs(node)
            elif node.op == "call_function":
                wanted = _wanted(node)
                if wanted == torch.float16 and (reason := _unsafe(program, node)):
                    wanted, unsafe[where(node)] = torch.float32, reason
                if wanted is not None:
                    caster.compute_in(wanted, node)
                    counts[wanted] += 1
        caster.rewriter.finish()
        program = program.note(f"{counts[torch.float16]} operators in FP16, {counts[torch.float32]} kept in FP32")
        for name, reason in unsafe.items():
            program = program.note(f"FP32: {name}, {reason}")
        return program.note(_evidence(program))


def _unsafe(program: Program, node: Node) -> str | None:
    """Why an operator must not be FP16: the tensor, its range, and FP16's; None if nothing speaks against it."""
    for tensor in (node, *node.all_input_nodes):
        if not is_tensor(tensor) or not val(tensor).is_floating_point():
            continue
        if is_constant(tensor):
            value = constant(program.module, tensor)
            peak, limit = float(value.abs().max()) if value.numel() else 0.0, _LARGEST
        else:
            # A cast of what was seen has seen the same.
            seen = operand(tensor) if tensor.target is aten._to_copy.default else tensor
            peak, limit = program.findings.peaks.get(seen.name, 0.0), _LARGEST / _HEADROOM
        kind = "its result" if tensor is node else f"its operand {tensor.name}"
        if not peak <= limit:
            return f"{kind} reaches {peak:.4g}, FP16 ends at {_LARGEST:.0f}"
        if 0 < peak < _SMALLEST_NORMAL:
            return f"{kind} stays below {peak:.3g}, FP16 is subnormal below {_SMALLEST_NORMAL:.3g}"
    return None


def _evidence(program: Program) -> str:
    names = {n.name for n in program.graph.nodes if is_tensor(n) and val(n).dtype == torch.float16}
    peaks = {n: peak for n, peak in program.findings.peaks.items() if n in names}
    if not peaks:
        return (
            "no range of an FP16 tensor was seen: the choice is by kind of operator (calibration=images shows ranges)"
        )
    largest = max(peaks, key=lambda n: (peaks[n], n))
    return f"the largest magnitude seen in FP16 is {peaks[largest]:.4g}, in {largest}; FP16 ends at {_LARGEST:.0f}"


def _wanted(node: Node) -> torch.dtype | None:
    """The dtype an operator computes in; None for what has no floating-point operand of its own."""
    name = op_name(node)
    if name in ("vitc.quantize", "vitc.dequantize") or any(
        op_name(a) == "vitc.dequantize" for a in node.all_input_nodes
    ):
        return torch.float32  # see the module's text
    if name in _POINTWISE:
        return val(operand(node)).dtype
    if name in _HALF:
        return torch.float16
    if node.target is operator.getitem:  # its operand is a tuple: the element says the dtype
        element = operand(node).meta["val"][argument(node, 1)]
        return element.dtype if isinstance(element, torch.Tensor) and element.is_floating_point() else None
    operands = [a for a in node.all_input_nodes if is_tensor(a) and val(a).is_floating_point()]
    if not operands:
        return None
    if name in _FOLLOWS:
        moved = [a for a in operands if not is_constant(a)] or operands
        return torch.float16 if all(val(a).dtype == torch.float16 for a in moved) else torch.float32
    return torch.float32


class _Caster:
    """Casts operands to the dtype an operator wants; each tensor is cast once."""

    def __init__(self, rewriter: Rewriter) -> None:
        self.rewriter = rewriter
        self._casts: dict[tuple[Node, torch.dtype], Node] = {}

    def compute_in(self, dtype: torch.dtype, node: Node) -> None:
        """Casts a node's operands; what else of it says a dtype follows."""
        with self.rewriter.at(node):
            args: Any = map_arg(node.args, lambda n: self._as(n, dtype))
            kwargs: Any = map_arg(node.kwargs, lambda n: self._as(n, dtype))
        if is_attention(node) and (call := AttentionCall(*args)).int8:
            args = replace(call, out_dtype=dtype).arguments()
        if isinstance(node.target, torch._ops.OpOverload):
            kwargs = {k: v for k, v in kwargs.items() if k != "dtype"}
        self.rewriter.edit(node, args=args, kwargs=kwargs)

    def restore_outputs(self, output: Node) -> None:
        with self.rewriter.at(output):
            args = map_arg(output.args, lambda n: self._as(n, torch.float32))
        self.rewriter.edit(output, args=args)

    def _as(self, node: Node, dtype: torch.dtype) -> Node:
        if not is_tensor(node) or not val(node).is_floating_point() or val(node).dtype == dtype:
            return node
        key = (node, dtype)
        if key not in self._casts:
            self._casts[key] = self._cast(node, dtype)
        return self._casts[key]

    def _cast(self, node: Node, dtype: torch.dtype) -> Node:
        if not is_constant(node):
            return self.rewriter.call(aten._to_copy.default, node, dtype=dtype)
        value = constant(self.rewriter.module, node).to(dtype)
        suffix = "f16" if dtype == torch.float16 else "f32"
        return self.rewriter.parameter(self.rewriter.unique_name(f"{node.target}_{suffix}"), value)
