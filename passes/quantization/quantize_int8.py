"""quantize-int8: explicit symmetric Q/DQ where the target gains from it, and nowhere else.

Activations per tensor, weights per output channel. Never on a residual Add: every Q stands directly before a GEMM or an
attention, so LayerNorm and GELU emit INT8 when the engine fuses the Q into them.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Literal

import torch
from torch.fx import Node

from vitc.errors import CalibrationError
from vitc.graph import Rewriter, constant, is_constant, module_path, shape_of
from vitc.graph.nodes import sole_user, val
from vitc.passes.quantization.placement import is_head
from vitc.passes.quantization.ranges import Sites, choose_ranges, known, parts_of
from vitc.passes.quantization.scales import quantise_weight, step_of
from vitc.pipeline import Pass, register_pass
from vitc.program import Program

aten, ops = torch.ops.aten, torch.ops.vitc
_NO_AXIS = 0


@register_pass
@dataclass(frozen=True)
class QuantizeInt8(Pass):
    """`calibrator`: how a tensor's range is chosen; auto takes, per tensor, the one with the least measured error.
    `correct_bias`: the mean error of each GEMM is taken out of its bias. `attention`: also the attention's own border
    (for the INT8 kernel). `skip`: module paths, with wildcards, that stay in floating point. `pv_fp16`: those whose
    attention multiplies by V in FP16. `convolutions`: also the patch embedding. `head`: also the classifier (its few FLOPs
    gain nothing). `seed`: of the samples of activations."""

    name = "quantize-int8"
    needs = "tiled"
    gives = "quantized"

    calibrator: Literal["auto", "minmax", "percentile", "mse", "entropy"] = "auto"
    correct_bias: bool = True
    attention: bool = True
    convolutions: bool = False
    head: bool = False
    skip: tuple[str, ...] = ()
    pv_fp16: tuple[str, ...] = ()
    seed: int = 0

    def run(self, program: Program) -> Program:
        sites = self.sites(program)
        return self.apply(self.with_ranges(program, sites), sites)

    def apply(self, program: Program, sites: Sites) -> Program:
        """Changes the program's graph: these sites become INT8, with ranges that the program knows."""
        scales = {name: step_of(program.ranges[name]) for name in sites.tensors()}
        rewriter = Rewriter(program.module, self.name)
        for node in sites.attentions:
            pv = "fp16" if _matches(node, self.pv_fp16) else "int8"
            _quantise_attention(rewriter, node, scales, set(sites.gemms), pv)
        activations: dict[Node, Node] = {}
        for x, gemms in sites.gemms.items():
            for node in gemms:
                mean_error = _MeanError.of(program, x) if self.correct_bias else None
                _quantise_gemm(rewriter, node, scales[x.name], activations, mean_error)
        rewriter.finish()
        count = sum(len(gemms) for gemms in sites.gemms.values())
        return program.note(f"{count} GEMMs and {len(sites.attentions)} attentions in INT8")

    def sites(self, program: Program) -> Sites:
        """What this pass quantises in a program."""
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
        """The program with a range for each of the sites' tensors, from its calibration stream if it has none yet.

        Raises CalibrationError without a stream.
        """
        if known(program, sites, self.correct_bias):
            return program
        if program.calibration is None:
            names = list(sites.tensors())
            raise CalibrationError(
                f"INT8 needs ranges for {len(names)} tensors ({', '.join(names[:3])} …) and there is no calibration "
                "data; pass calibration=images, or quantize=None to stay in floating point"
            )
        ranges, vectors, line = choose_ranges(program, sites, self.calibrator, self.seed)
        return program.calibrated(ranges, vectors).note(line)


def _matches(node: Node, patterns: tuple[str, ...]) -> bool:
    path = module_path(node)
    return any(fnmatch(path, pattern) or path.startswith(f"{pattern}.") for pattern in patterns)


@dataclass(frozen=True)
class _MeanError:
    """Means of a GEMM's input [C]: in floating point, and after Q and DQ."""

    exact: torch.Tensor
    quantised: torch.Tensor

    @classmethod
    def of(cls, program: Program, x: Node) -> _MeanError | None:
        mean = program.vectors.get(f"{x.name}/mean")
        return None if mean is None else cls(mean, mean + program.vectors[f"{x.name}/offset"])


def _quantise_gemm(
    rewriter: Rewriter, node: Node, scale: float, activations: dict[Node, Node], means: _MeanError | None
) -> None:
    x: Node = node.args[0]  # type: ignore[assignment]
    if x not in activations:
        activations[x] = x if x.target is ops.dequantize.default else _quantise_activation(rewriter, node, x, scale)
    weight, bias = node.args[1], node.args[2] if len(node.args) > 2 else None
    value = constant(rewriter.module, weight)  # type: ignore[arg-type]
    integers, steps = quantise_weight(value)
    with rewriter.at(node):
        name = str(weight.target)  # type: ignore[union-attr]
        data = rewriter.parameter(rewriter.unique_name(f"{name}_int8"), integers)
        step = rewriter.parameter(rewriter.unique_name(f"{name}_scale"), steps.to(value.dtype))
        if means is not None:
            error = (integers * steps[:, None]) @ means.quantised - value.float() @ means.exact
            bias = _corrected(rewriter, bias, error.to(value.dtype), name)  # type: ignore[arg-type]
        weight = rewriter.call(ops.dequantize.default, data, step, 0)
        new = rewriter.call(node.target, activations[x], weight, bias, *node.args[3:], **node.kwargs)  # type: ignore[arg-type]
    rewriter.replace(node, new)


def _corrected(rewriter: Rewriter, bias: Node | None, error: torch.Tensor, weight_name: str) -> Node:
    """bias − E[error] (Nagel et al., Data-Free Quantization, arXiv 1906.04721, section 4.2)."""
    before = torch.zeros_like(error) if bias is None else constant(rewriter.module, bias)
    name = f"{weight_name}_bias" if bias is None else str(bias.target)
    return rewriter.parameter(rewriter.unique_name(f"{name}_corrected"), before - error)


def _quantise_activation(rewriter: Rewriter, at: Node, x: Node, scale: float) -> Node:
    with rewriter.at(at):
        step = rewriter.parameter(rewriter.unique_name(f"{_home(x)}{x.name}_scale"), torch.tensor(scale, dtype=val(x).dtype))
        integers = rewriter.call(ops.quantize.default, x, step, _NO_AXIS)
        return rewriter.call(ops.dequantize.default, integers, step, _NO_AXIS)


def _quantise_attention(
    rewriter: Rewriter, node: Node, scales: dict[str, float], gemm_inputs: set[Node], pv: str
) -> None:
    q, k, v, bias, heads, head_dim, scale, layout, tile_q, tile_k = node.args
    dtype = val(node).dtype
    emits_int8 = node in gemm_inputs
    out_scale = scales[node.name] if emits_int8 else 0.0
    in_scales = [scales[name] for name in parts_of(node)]
    with rewriter.at(node):
        if layout == "packed":
            operands: list[Node | None] = [_packed_integers(rewriter, q, in_scales), None, None]  # type: ignore[arg-type]
            if operands[0] is None:
                in_scales = [max(in_scales)] * 3
                operands[0] = _integers(rewriter, q, in_scales[0])  # type: ignore[arg-type]
        else:
            operands = [_integers(rewriter, t, s) for t, s in zip((q, k, v), in_scales, strict=True)]  # type: ignore[arg-type]
        new = rewriter.call(
            ops.attention_int8.default,
            *operands, bias, heads, head_dim, scale, layout, tile_q, tile_k, pv, in_scales, out_scale, dtype,
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
