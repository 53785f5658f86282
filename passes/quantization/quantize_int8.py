"""quantize-int8: explicit symmetric Q/DQ where the target gains from it, and nowhere else.

Activations per tensor, weights per output channel. Never on a residual Add: every Q stands directly before a GEMM or an
attention, so LayerNorm and GELU emit INT8 when the engine fuses the Q into them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fnmatch import fnmatch
from typing import Literal

import torch
from torch.fx import Node

from vitc.calibration.findings import Findings
from vitc.errors import CalibrationError
from vitc.graph import Rewriter, constant, is_constant, module_path, shape_of
from vitc.graph.attention_call import AttentionCall
from vitc.graph.nodes import argument, called, operand, sole_user, val
from vitc.graph.program import Program
from vitc.passes.quantization.gemms import QuantizedGemm, corrected_bias
from vitc.passes.quantization.placement import is_head
from vitc.passes.quantization.ranges import Sites, choose_ranges, known, parts_of
from vitc.passes.quantization.rounding.blockwise import round_by_adaround
from vitc.passes.quantization.rounding.layerwise import round_by_gptq
from vitc.passes.quantization.scales import quantize_weight, step_of
from vitc.pipeline import Pass, register_pass

aten, ops = torch.ops.aten, torch.ops.vitc
_NO_AXIS = 0
_ROUNDINGS = {"gptq": round_by_gptq, "adaround": round_by_adaround}


@register_pass
@dataclass(frozen=True)
class QuantizeInt8(Pass):
    """Puts Q/DQ pairs around the GEMMs and attentions that gain from INT8 on the target.

    calibrator:   how each tensor's range is chosen; 'auto' takes the least measured error, tensor by tensor.
    correct_bias: takes the mean error that a GEMM's rounded weights make out of its bias.
    attention:    also the attention's own border (for the INT8 kernel).
    convolutions: also the patch embedding.
    head:         also the classifier (its few FLOPs gain nothing).
    skip:         module paths, with wildcards, that stay in floating point.
    pv_fp16:      module paths whose attention multiplies by V in FP16.
    rounding:     of the linears' weights; 'gptq' chooses it layer by layer, 'adaround' trains it block by block.
    seed:         of the samples of activations.
    """

    name = "quantize-int8"
    needs = "tiled"
    gives = "quantized"
    exact = False

    calibrator: Literal["auto", "minmax", "percentile", "mse", "entropy"] = "auto"
    correct_bias: bool = True
    attention: bool = True
    convolutions: bool = False
    head: bool = False
    skip: tuple[str, ...] = ()
    pv_fp16: tuple[str, ...] = ()
    rounding: Literal["nearest", "gptq", "adaround"] = "nearest"
    seed: int = 0

    def run(self, program: Program) -> Program:
        sites = self.sites(program)
        return self.apply(self.with_ranges(program, sites), sites)

    def apply(self, program: Program, sites: Sites) -> Program:
        """Changes the program's graph: these sites become INT8, with ranges and roundings that the program knows."""
        gemms = self._insert(program, sites)
        return program.note(f"{len(gemms)} GEMMs and {len(sites.attentions)} attentions in INT8")

    def _insert(self, program: Program, sites: Sites) -> list[QuantizedGemm]:
        scales = {name: step_of(program.findings.ranges[name]) for name in sites.tensors()}
        rewriter = Rewriter(program.module, self.name)
        for node in sites.attentions:
            pv = "fp16" if _matches(node, self.pv_fp16) else "int8"
            _quantize_attention(rewriter, node, scales, set(sites.gemms), pv)
        activations: dict[Node, Node] = {}
        done = []
        for x, gemms in sites.gemms.items():
            mean = program.findings.means.get(x.name) if self.correct_bias else None
            for node in gemms:
                offsets = None if self.rounding == "nearest" else program.findings.roundings.get(node.name)
                done.append(_quantize_gemm(rewriter, node, scales[x.name], activations, mean, offsets))
        rewriter.finish()
        return done

    def sites(self, program: Program) -> Sites:
        """What this pass quantizes in a program."""
        sites = Sites()
        for node in program.graph.nodes:
            if self._wanted(node):
                sites.gemms.setdefault(node.args[0], []).append(node)
            elif node.target is ops.attention.default and self.attention and not _matches(node, self.skip):
                sites.attentions.append(node)
        return sites

    def _wanted(self, node: Node) -> bool:
        if node.target is aten.conv2d.default:
            wanted = self.convolutions
        elif node.target is aten.linear.default:
            wanted = self.head or not is_head(node)
        else:
            return False
        return wanted and is_constant(node.args[1]) and not is_constant(node.args[0]) and not _matches(node, self.skip)

    def with_ranges(self, program: Program, sites: Sites) -> Program:
        """The program with a range for each of the sites' tensors, and a rounding for each linear where `rounding` asks
        for one, from its calibration stream if it has none yet.

        Raises CalibrationError without a stream.
        """
        if not known(program, sites, self.correct_bias):
            program = self._measured(program, sites)
        return program if self.rounding == "nearest" else self._with_roundings(program, sites)

    def _measured(self, program: Program, sites: Sites) -> Program:
        if program.calibration is None:
            names = list(sites.tensors())
            raise CalibrationError(
                f"INT8 needs ranges for {len(names)} tensors ({', '.join(names[:3])} …) and there is no calibration "
                "data; pass calibration=images, or quantize=None to stay in floating point"
            )
        findings, line = choose_ranges(program, sites, self.calibrator, self.seed)
        return program.calibrated(findings).note(line)

    def _with_roundings(self, program: Program, sites: Sites) -> Program:
        linears = [n.name for readers in sites.gemms.values() for n in readers if n.target is aten.linear.default]
        if all(name in program.findings.roundings for name in linears):
            return program
        if program.calibration is None:
            raise CalibrationError(
                f"rounding={self.rounding} needs calibration data for {len(linears)} linears and there is none; "
                "pass calibration=images, or rounding=nearest"
            )
        copy, twins = sites.on_copy(program)
        gemms = {g.name: g for g in replace(self, rounding="nearest")._insert(copy, twins)}
        ordered = [gemms[n.name] for n in program.graph.nodes if n.name in linears]
        offsets, lines = _ROUNDINGS[self.rounding](program, copy, ordered, self.seed)
        others = [n for readers in sites.gemms.values() for n in readers if n.name not in linears]
        lines += [f"{module_path(n) or n.name}: rounded to the nearest, {self.rounding} is for linears" for n in others]
        for line in lines:
            program = program.note(line)
        return program.calibrated(Findings(roundings=offsets))


def _matches(node: Node, patterns: tuple[str, ...]) -> bool:
    path = module_path(node)
    return any(fnmatch(path, pattern) or path.startswith(f"{pattern}.") for pattern in patterns)


def _quantize_gemm(
    rewriter: Rewriter,
    node: Node,
    scale: float,
    activations: dict[Node, Node],
    mean: torch.Tensor | None,
    offsets: torch.Tensor | None,
) -> QuantizedGemm:
    """`mean` [C]: of its input. `offsets` [O, C]: of the integers from the nearest ones."""
    x, weight = operand(node), operand(node, 1)
    if x not in activations:
        activations[x] = x if x.target is ops.dequantize.default else _quantize_activation(rewriter, node, x, scale)
    bias: Node | None = argument(node, 2)
    exact = constant(rewriter.module, weight)
    exact_bias = None if bias is None else constant(rewriter.module, bias)
    integers, steps = quantize_weight(exact)
    if offsets is not None:
        integers = (integers.short() + offsets).clamp(-127, 127).to(torch.int8)
    with rewriter.at(node):
        name = str(weight.target)
        data = rewriter.parameter(rewriter.unique_name(f"{name}_int8"), integers)
        step = rewriter.parameter(rewriter.unique_name(f"{name}_scale"), steps.to(exact.dtype))
        if mean is not None:
            home = f"{name}_bias" if bias is None else str(bias.target)
            corrected = corrected_bias(exact, integers * steps[:, None], exact_bias, mean)
            bias = rewriter.parameter(rewriter.unique_name(f"{home}_corrected"), corrected)
        dequantized = rewriter.call(ops.dequantize.default, data, step, 0)
        new = rewriter.call(called(node), activations[x], dequantized, bias, *node.args[3:], **node.kwargs)
    rewriter.replace(node, new)
    return QuantizedGemm(node.name, new, exact, exact_bias, mean)


def _quantize_activation(rewriter: Rewriter, at: Node, x: Node, scale: float) -> Node:
    with rewriter.at(at):
        step = rewriter.parameter(
            rewriter.unique_name(f"{_home(x)}{x.name}_scale"), torch.tensor(scale, dtype=val(x).dtype)
        )
        integers = rewriter.call(ops.quantize.default, x, step, _NO_AXIS)
        return rewriter.call(ops.dequantize.default, integers, step, _NO_AXIS)


def _quantize_attention(
    rewriter: Rewriter, node: Node, scales: dict[str, float], gemm_inputs: set[Node], pv: str
) -> None:
    call, dtype = AttentionCall.of(node), val(node).dtype
    emits_int8 = node in gemm_inputs
    out_scale = scales[node.name] if emits_int8 else 0.0
    in_scales = [scales[name] for name in parts_of(node)]
    with rewriter.at(node):
        if call.packed:
            packed = _packed_integers(rewriter, call.q, in_scales)
            if packed is None:
                in_scales = [max(in_scales)] * 3
                packed = _integers(rewriter, call.q, in_scales[0])
            operands = [packed]
        else:
            operands = [_integers(rewriter, x, s) for x, s in zip(call.parts, in_scales, strict=True)]
        border = replace(call, pv=pv, in_scales=in_scales, out_scale=out_scale, out_dtype=dtype)
        new = border.with_parts(operands).emit(rewriter)
        if emits_int8:
            step = rewriter.parameter(
                rewriter.unique_name(f"{_home(node)}{node.name}_scale"), torch.tensor(out_scale, dtype=dtype)
            )
            new = rewriter.call(ops.dequantize.default, new, step, _NO_AXIS)
    rewriter.replace(node, new)


def _integers(rewriter: Rewriter, x: Node, scale: float) -> Node:
    step = rewriter.parameter(
        rewriter.unique_name(f"{_home(x)}{x.name}_scale"), torch.tensor(scale, dtype=val(x).dtype)
    )
    return rewriter.call(ops.quantize.default, x, step, _NO_AXIS)


def _packed_integers(rewriter: Rewriter, qkv: Node, in_scales: list[float]) -> Node | None:
    """q, k and v share one Q node (one tensor, one scale), yet each keeps its own range: the linear's rows are
    multiplied by common/own, which the attention divides out again by its three scales. None if qkv is no linear of
    its own."""
    if qkv.target is not aten.linear.default or sole_user(qkv) is None or not is_constant(qkv.args[1]):
        return None
    common = max(in_scales)
    weight = constant(rewriter.module, operand(qkv, 1))
    factors = torch.tensor([common / s for s in in_scales]).repeat_interleave(weight.shape[0] // 3)
    args = list(qkv.args)
    home = str(operand(qkv, 1).target)
    with rewriter.at(qkv):
        args[1] = rewriter.parameter(rewriter.unique_name(f"{home}_equalized"), weight * factors[:, None])
        if len(args) > 2 and isinstance(args[2], Node):
            bias = constant(rewriter.module, args[2])
            args[2] = rewriter.parameter(rewriter.unique_name(f"{args[2].target}_equalized"), bias * factors)
    rewriter.edit(qkv, args=args)
    return _integers(rewriter, qkv, common)


def _home(node: Node) -> str:
    path = module_path(node)
    return f"{path}." if path and shape_of(node) else ""
