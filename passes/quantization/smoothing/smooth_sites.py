"""Where channels can be scaled without changing the function: who makes them, and who takes the factors back.

A `ReadSite` is a tensor that only linears read: a LayerNorm's output, scaled in its affine, or an attention's output,
scaled in V (it is a mean of V's rows). A `ScoreSite` is Q and K of one attention: what divides Q multiplies K, and a
shift of K adds the same to all scores of a query, which softmax does not see.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from vitc.calibration.findings import Findings, Smoothed
from vitc.graph import Rewriter, constant, is_constant, module_path
from vitc.graph.attention_call import AttentionCall
from vitc.graph.movement import example_shape
from vitc.graph.nodes import argument, operand, sole_user
from vitc.passes.quantization.error.measured_error import Part, TensorProbe, WeightProbe
from vitc.passes.quantization.placement import is_head
from vitc.passes.quantization.ranges import parts_of
from vitc.passes.quantization.smoothing.channels import channel_readers
from vitc.passes.quantization.smoothing.smooth_search import Smoothing, search_gemm, search_scores

aten, ops = torch.ops.aten, torch.ops.vitc
Probes: TypeAlias = tuple[dict[str, TensorProbe], dict[str, WeightProbe]]


@dataclass(frozen=True)
class Maker:
    """A LayerNorm or linear, and which of its output channels are meant."""

    node: Node
    start: int = 0
    stop: int | None = None

    @property
    def rows(self) -> slice:
        return slice(self.start, self.stop)

    @property
    def has_bias(self) -> bool:
        return len(self.node.args) > self._weight + 1 and isinstance(self.node.args[self._weight + 1], Node)

    @property
    def _weight(self) -> int:
        return 2 if self.node.target is aten.layer_norm.default else 1

    def divide(self, rewriter: Rewriter, shift: Tensor, scale: Tensor) -> None:
        """Its output becomes (output − shift) / scale; only with a bias if there is a shift."""
        weight = constant(rewriter.module, operand(self.node, self._weight)).clone()
        weight[self.rows] /= scale.reshape([-1] + [1] * (weight.ndim - 1))
        set_weight(rewriter, self.node, self._weight, weight)
        if self.has_bias:
            bias = constant(rewriter.module, operand(self.node, self._weight + 1)).clone()
            bias[self.rows] = (bias[self.rows] - shift) / scale
            set_weight(rewriter, self.node, self._weight + 1, bias)


@dataclass(frozen=True)
class ReadSite:
    tensor: Node
    maker: Maker
    readers: Sequence[Node]

    def factors(self, findings: Findings) -> Smoothed | None:
        return findings.smoothing.get(self.tensor.name)

    def findings(self, factors: Smoothed) -> Findings:
        return Findings(smoothing={self.tensor.name: factors})

    def parts(self) -> dict[str, Part]:
        return {self.tensor.name: Part(self.tensor)}

    def search(self, probes: Probes, module: GraphModule, alphas: Sequence[float], shifts: bool) -> Smoothing:
        tensors, weights = probes
        columns = [constant(module, operand(n, 1)).float().abs().amax(0) for n in self.readers]
        peak = torch.stack(columns).amax(0)
        return search_gemm(
            tensors[self.tensor.name], weights[self.tensor.name], peak, alphas, shifts and self.maker.has_bias
        )

    def apply(self, rewriter: Rewriter, factors: Smoothed) -> None:
        shift, scale = factors.shift, factors.scale
        self.maker.divide(rewriter, shift, scale)
        for reader in self.readers:
            weight = constant(rewriter.module, operand(reader, 1))
            set_weight(rewriter, reader, 1, weight * scale)
            if bool(shift.any()):
                bias = argument(reader, 2)
                before = 0.0 if bias is None else constant(rewriter.module, bias)
                set_weight(rewriter, reader, 2, weight @ shift + before)


@dataclass(frozen=True)
class ScoreSite:
    attention: Node
    query: Maker
    keys: Maker

    def factors(self, findings: Findings) -> Smoothed | None:
        return findings.score_smoothing.get(self.attention.name)

    def findings(self, factors: Smoothed) -> Findings:
        return Findings(score_smoothing={self.attention.name: factors})

    @property
    def tensor(self) -> Node:
        return self.attention

    def parts(self) -> dict[str, Part]:
        return dict(list(parts_of(self.attention).items())[:2])

    def search(self, probes: Probes, module: GraphModule, alphas: Sequence[float], shifts: bool) -> Smoothing:
        tensors, _ = probes
        query, keys = (tensors[name] for name in self.parts())
        return search_scores(query, keys, alphas, shifts and self.keys.has_bias)

    def apply(self, rewriter: Rewriter, factors: Smoothed) -> None:
        shift, scale = factors.shift, factors.scale
        self.query.divide(rewriter, torch.zeros_like(shift), scale)
        self.keys.divide(rewriter, shift, 1 / scale)


Site: TypeAlias = ReadSite | ScoreSite


def sites_at(node: Node) -> list[Site]:
    """The sites that a LayerNorm or an attention offers."""
    if node.target is aten.layer_norm.default:
        affine = len(node.args) > 3 and all(map(is_constant, node.args[2:4])) and len(argument(node, 1)) == 1
        return _read_site(node, Maker(node)) if affine else []
    if node.target is not ops.attention.default:
        return []
    query, keys, values = _operand_makers(node)
    scores: list[Site] = [ScoreSite(node, query, keys)] if query and keys else []
    return scores + (_read_site(node, values) if values else [])


def _read_site(tensor: Node, maker: Maker) -> list[Site]:
    readers = channel_readers(tensor)
    if not readers or all(map(is_head, readers)) or any(_rows(r) != _rows(tensor) for r in readers):
        return []  # a reader of some tokens only, such as a head of two layers: the errors measured are over all
    return [ReadSite(tensor, maker, readers)]


def _rows(node: Node) -> int:
    return math.prod(example_shape(node)[:-1])


def _operand_makers(attention: Node) -> list[Maker | None]:
    """The linears that make q, k and v, where nothing stands between and nobody else reads them."""
    call = AttentionCall.of(attention)
    if call.packed:
        q, width = call.q, call.width
        return [Maker(q, i * width, (i + 1) * width) if _owned(q, attention) else None for i in range(3)]
    return [Maker(x) if _owned(x, attention) else None for x in call.parts]


def _owned(maker: Node, attention: Node) -> bool:
    return (
        maker.target is aten.linear.default
        and is_constant(maker.args[1])
        and sole_user(maker) is attention
        and sum(x is maker for x in AttentionCall.of(attention).inputs) == 1
    )


def set_weight(rewriter: Rewriter, node: Node, position: int, value: Tensor) -> None:
    """Gives a node another weight or bias, in its place."""
    args = [*node.args, *[None] * (position + 1 - len(node.args))]
    old = args[position]
    home = str(old.target) if isinstance(old, Node) else f"{module_path(node)}.bias".lstrip(".")
    with rewriter.at(node):
        args[position] = rewriter.parameter(rewriter.unique_name(f"{home}_smooth"), value)
    rewriter.edit(node, args=args)
