"""quantize-int8: explicit symmetric Q/DQ where the target gains from it, and nowhere else.

Activations per tensor, weights per output channel. Never on a residual Add: every Q stands directly before a GEMM or an
attention, so LayerNorm and GELU emit INT8 when the engine fuses the Q into them.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatch
from types import MappingProxyType
from typing import Literal

import torch
from torch.fx import Node

from vitc.calibration import CALIBRATORS
from vitc.errors import CalibrationError
from vitc.graph import Rewriter, constant, is_constant, module_path, shape_of
from vitc.graph.nodes import sole_user, val
from vitc.passes.quantization.observe import observe
from vitc.pipeline import Pass, register_pass
from vitc.program import Program

aten, ops = torch.ops.aten, torch.ops.vitc
_NO_AXIS = 0


@register_pass
@dataclass(frozen=True)
class QuantizeInt8(Pass):
    """`calibrator`: how a tensor's range is chosen. `attention`: also the attention's own border (for the INT8 kernel).
    `skip`: module paths, with wildcards, that stay in floating point. `convolutions`: also the patch embedding.
    `head`: also the classifier (its few FLOPs gain nothing)."""

    name = "quantize-int8"
    needs = "tiled"
    gives = "quantized"

    calibrator: Literal["minmax", "percentile", "mse", "entropy"] = "mse"
    attention: bool = True
    convolutions: bool = False
    head: bool = False
    skip: tuple[str, ...] = ()

    def run(self, program: Program) -> Program:
        linears = [n for n in program.graph.nodes if self._wanted(n, program)]
        attentions = [n for n in program.graph.nodes if n.target is ops.attention.default and self.attention]
        attentions = [n for n in attentions if not self._skipped(n)]
        sites: dict[str, tuple[Node, int]] = {n.args[0].name: (n.args[0], -1) for n in linears}  # type: ignore[misc, union-attr]
        for node in attentions:
            sites |= _attention_sites(node)
        program = self._with_ranges(program, sites)
        scales = {name: _scale(program.ranges[name]) for name in sites}

        rewriter = Rewriter(program.module, self.name)
        for node in attentions:
            _quantise_attention(rewriter, node, scales, {n.args[0] for n in linears})  # type: ignore[misc]
        activations: dict[Node, Node] = {}
        for node in linears:
            _quantise_linear(rewriter, node, scales, activations)
        rewriter.finish()
        return program.note(f"{len(linears)} GEMMs and {len(attentions)} attentions in INT8, ranges by {self.calibrator}")

    def _wanted(self, node: Node, program: Program) -> bool:
        if node.target is aten.conv2d.default:
            wanted = self.convolutions
        elif node.target is aten.linear.default:
            wanted = self.head or not _is_head(node)
        else:
            return False
        return wanted and is_constant(node.args[1]) and not is_constant(node.args[0]) and not self._skipped(node)

    def _skipped(self, node: Node) -> bool:
        path = module_path(node)
        return any(fnmatch(path, pattern) or path.startswith(f"{pattern}.") for pattern in self.skip)

    def _with_ranges(self, program: Program, sites: dict[str, tuple[Node, int]]) -> Program:
        missing = sorted(name for name in sites if name not in program.ranges)
        if not missing:
            return program
        if program.calibration is None:
            raise CalibrationError(
                f"INT8 needs ranges for {len(missing)} tensors ({', '.join(missing[:3])} …) and there is no calibration "
                "data; pass calibration=images, or quantize=None to stay in floating point"
            )
        histograms = observe(program, sites)
        choose = CALIBRATORS[self.calibrator]
        ranges = dict(program.ranges) | {name: choose(h) for name, h in histograms.items()}
        return program.evolve(ranges=MappingProxyType(ranges))


def _is_head(linear: Node) -> bool:
    """A linear that no other linear or attention follows."""
    seen, stack = set(), list(linear.users)
    while stack:
        user = stack.pop()
        if user in seen:
            continue
        seen.add(user)
        if user.target in (aten.linear.default, ops.attention.default, aten.conv2d.default):
            return False
        stack += list(user.users)
    return True


def _attention_sites(node: Node) -> dict[str, tuple[Node, int]]:
    q, k, v = node.args[:3]
    sites = {node.name: (node, -1)}
    if k is None:
        return sites | {f"{q.name}/{part}": (q, i) for i, part in enumerate("qkv")}  # type: ignore[union-attr, dict-item]
    return sites | {operand.name: (operand, -1) for operand in (q, k, v)}  # type: ignore[union-attr, dict-item, misc]


def _scale(limit: float) -> float:
    """Step of 127 levels, exactly representable in FP16 (rounded up), so FP16 and FP32 engines see the same numbers.
    A tensor that was zero throughout gets the smallest normal FP16 number."""
    step = torch.tensor(max(limit / 127, 2.0**-14))
    half = step.half()
    if half.float() < step:
        half = torch.nextafter(half, torch.tensor(torch.inf, dtype=torch.float16))
    return float(half)


def _quantise_linear(rewriter: Rewriter, node: Node, scales: dict[str, float], activations: dict[Node, Node]) -> None:
    x: Node = node.args[0]  # type: ignore[assignment]
    if x not in activations:
        activations[x] = x if x.target is ops.dequantize.default else _quantise_activation(rewriter, node, x, scales[x.name])
    with rewriter.at(node):
        weight = _quantised_weight(rewriter, node.args[1])  # type: ignore[arg-type]
        new = rewriter.call(node.target, activations[x], weight, *node.args[2:], **node.kwargs)  # type: ignore[arg-type]
    rewriter.replace(node, new)


def _quantise_activation(rewriter: Rewriter, at: Node, x: Node, scale: float) -> Node:
    with rewriter.at(at):
        step = rewriter.parameter(rewriter.unique_name(f"{_home(x)}{x.name}_scale"), torch.tensor(scale, dtype=val(x).dtype))
        integers = rewriter.call(ops.quantize.default, x, step, _NO_AXIS)
        return rewriter.call(ops.dequantize.default, integers, step, _NO_AXIS)


def _quantised_weight(rewriter: Rewriter, weight: Node) -> Node:
    value = constant(rewriter.module, weight)
    integers, steps = quantise_weight(value)
    name = str(weight.target)
    data = rewriter.parameter(rewriter.unique_name(f"{name}_int8"), integers)
    step = rewriter.parameter(rewriter.unique_name(f"{name}_scale"), steps.to(value.dtype))
    return rewriter.call(ops.dequantize.default, data, step, 0)


def quantise_weight(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(int8 weight in [-127, 127], FP32 steps [out]) per output channel; a zero channel gets the smallest step."""
    peaks = weight.detach().float().flatten(1).abs().amax(1)
    steps = torch.tensor([_scale(float(p)) if p > 2.0**-14 * 127 else _tiny_scale(float(p)) for p in peaks])
    shaped = steps.reshape([-1] + [1] * (weight.ndim - 1))
    return torch.clamp(torch.round(weight.float() / shaped), -127, 127).to(torch.int8), steps


def _tiny_scale(limit: float) -> float:
    """Steps below the normal FP16 range: subnormals are 2⁻²⁴ apart; rounded up so that nothing is clipped."""
    units = max(1, -(-limit / 127 // 2.0**-24))
    return float(units * 2.0**-24)


def _quantise_attention(rewriter: Rewriter, node: Node, scales: dict[str, float], gemm_inputs: set[Node]) -> None:
    q, k, v, bias, heads, head_dim, scale, layout, tile_q, tile_k = node.args
    dtype = val(node).dtype
    emits_int8 = node in gemm_inputs
    out_scale = scales[node.name] if emits_int8 else 0.0
    with rewriter.at(node):
        if layout == "packed":
            in_scales = [scales[f"{q.name}/{part}"] for part in "qkv"]  # type: ignore[union-attr]
            operands: list[Node | None] = [_packed_integers(rewriter, q, in_scales), None, None]  # type: ignore[arg-type]
            if operands[0] is None:
                in_scales = [max(in_scales)] * 3
                operands[0] = _integers(rewriter, q, in_scales[0])  # type: ignore[arg-type]
        else:
            in_scales = [scales[t.name] for t in (q, k, v)]  # type: ignore[union-attr]
            operands = [_integers(rewriter, t, s) for t, s in zip((q, k, v), in_scales, strict=True)]  # type: ignore[arg-type]
        new = rewriter.call(
            ops.attention_int8.default,
            *operands, bias, heads, head_dim, scale, layout, tile_q, tile_k, "int8", in_scales, out_scale, dtype,
        )  # fmt: skip
        if emits_int8:
            step = rewriter.parameter(
                rewriter.unique_name(f"{_home(node)}{node.name}_scale"), torch.tensor(out_scale, dtype=dtype)
            )
            new = rewriter.call(ops.dequantize.default, new, step, _NO_AXIS)
    rewriter.replace(node, new)


def _integers(rewriter: Rewriter, x: Node, scale: float) -> Node:
    step = rewriter.parameter(rewriter.unique_name(f"{_home(x)}{x.name}_scale"), torch.tensor(scale, dtype=val(x).dtype))
    return rewriter.call(ops.quantize.default, x, step, _NO_AXIS)


def _packed_integers(rewriter: Rewriter, qkv: Node, in_scales: list[float]) -> Node | None:
    """q, k and v share one Q node (one tensor, one scale), yet each keeps its own range: the linear's rows are
    multiplied by common/own, which the attention divides out again by its three scales. None if qkv is no linear of
    its own."""
    if qkv.target is not aten.linear.default or sole_user(qkv) is None or not is_constant(qkv.args[1]):
        return None
    common = max(in_scales)
    weight = constant(rewriter.module, qkv.args[1])  # type: ignore[arg-type]
    factors = torch.tensor([common / s for s in in_scales]).repeat_interleave(weight.shape[0] // 3)
    args = list(qkv.args)
    home = str(qkv.args[1].target)  # type: ignore[union-attr]
    with rewriter.at(qkv):
        args[1] = rewriter.parameter(rewriter.unique_name(f"{home}_equalised"), weight * factors[:, None])
        if len(args) > 2 and isinstance(args[2], Node):
            bias = constant(rewriter.module, args[2])
            args[2] = rewriter.parameter(rewriter.unique_name(f"{args[2].target}_equalised"), bias * factors)
    qkv.args = tuple(args)
    return _integers(rewriter, qkv, common)


def _home(node: Node) -> str:
    path = module_path(node)
    return f"{path}." if path and shape_of(node) else ""
