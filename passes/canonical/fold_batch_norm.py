"""fold-batch-norm: BatchNorm in inference is a scale and a shift; they go into the convolution or linear before it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.fx import Node

from vitc.graph import Rewriter, constant
from vitc.graph.nodes import is_constant, sole_user, val
from vitc.graph.program import Program
from vitc.pipeline import Pass, register_pass

aten = torch.ops.aten
_WITH_WEIGHT = (aten.conv2d.default, aten.linear.default, aten.conv1d.default)


@register_pass
@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Folds a BatchNorm into the convolution or linear before it.

    w' = w·γ/√(σ²+ε), b' = (b − μ)·γ/√(σ²+ε) + β (Jacob et al., arXiv 1712.05877, section 3.2).
    A BatchNorm with nothing to fold into becomes one multiplication and one addition.
    """

    name = "fold-batch-norm"
    after = ("drop-noops",)

    def run(self, program: Program) -> Program:
        rewriter = Rewriter(program.module, self.name)
        for node in list(program.graph.nodes):
            eps = _inference_eps(node)
            if eps is None:
                continue
            weight, bias, mean, variance = (
                constant(program.module, a) if isinstance(a, Node) else None for a in node.args[1:5]
            )
            if mean is None or variance is None:
                continue
            scale = torch.rsqrt(variance.double() + eps)
            if weight is not None:
                scale = scale * weight.double()
            shift = -mean.double() * scale + (bias.double() if bias is not None else 0.0)
            self._fold(rewriter, node, scale, shift, mean.dtype)
        rewriter.finish()
        return program

    def _fold(
        self, rewriter: Rewriter, norm: Node, scale: torch.Tensor, shift: torch.Tensor, dtype: torch.dtype
    ) -> None:
        source: Node = norm.args[0]  # type: ignore[assignment]
        with rewriter.at(norm):
            if source.target in _WITH_WEIGHT and sole_user(source) is norm and is_constant(source.args[1]):
                new = _scaled(rewriter, source, scale, shift, dtype)
            else:
                shape = [1, -1] + [1] * (val(source).ndim - 2)
                name = rewriter.unique_name(f"{norm.args[3].target}_scale")  # type: ignore[union-attr]
                factor = rewriter.parameter(name, scale.to(dtype).reshape(shape))
                name = rewriter.unique_name(f"{norm.args[3].target}_shift")  # type: ignore[union-attr]
                offset = rewriter.parameter(name, shift.to(dtype).reshape(shape))
                new = rewriter.call(aten.add.Tensor, rewriter.call(aten.mul.Tensor, source, factor), offset)
        result = norm if norm.target is aten.batch_norm.default else next(iter(norm.users))
        rewriter.replace(result, new)


def _inference_eps(node: Node) -> float | None:
    """ε of a BatchNorm in inference mode, or None. torch.export writes it with three results, of which one is used."""
    if node.target is aten.batch_norm.default:
        return None if node.args[5] else float(node.args[7])  # type: ignore[arg-type]
    if node.target is aten._native_batch_norm_legit_no_training.default and len(node.users) == 1:
        return float(node.args[6])  # type: ignore[arg-type]
    return None


def _scaled(rewriter: Rewriter, layer: Node, scale: torch.Tensor, shift: torch.Tensor, dtype: torch.dtype) -> Node:
    weight_node: Node = layer.args[1]  # type: ignore[assignment]
    old = constant(rewriter.module, weight_node)
    weight = old.double() * scale.reshape([-1] + [1] * (old.ndim - 1))
    bias_node = layer.args[2] if len(layer.args) > 2 else None
    bias = constant(rewriter.module, bias_node).double() * scale + shift if isinstance(bias_node, Node) else shift
    name = str(weight_node.target)
    new_weight = rewriter.parameter(rewriter.unique_name(f"{name}_folded"), weight.to(dtype))
    new_bias = rewriter.parameter(rewriter.unique_name(f"{name.removesuffix('weight')}bias_folded"), bias.to(dtype))
    return rewriter.call(layer.target, layer.args[0], new_weight, new_bias, *layer.args[3:])  # type: ignore[arg-type]
