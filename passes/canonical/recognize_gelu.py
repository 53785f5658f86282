"""recognize-gelu: 0.5·x·(1 + erf(x/√2)) written out becomes one aten.gelu (Hendrycks & Gimpel, arXiv 1606.08415)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.fx import Node

from vitc.graph import Rewriter
from vitc.graph.program import Program
from vitc.pipeline import Pass, register_pass

aten = torch.ops.aten


@register_pass
@dataclass(frozen=True)
class RecognizeGelu(Pass):
    """Replaces a GELU that is written out with erf, whatever the order of its factors, by one aten.gelu."""

    name = "recognize-gelu"
    after = ("drop-noops",)

    def run(self, program: Program) -> Program:
        rewriter = Rewriter(program.module, self.name)
        for node in list(program.graph.nodes):
            if node.target is not aten.erf.default:
                continue
            match = _match(node)
            if match is None:
                continue
            last, x = match
            with rewriter.at(last):
                new = rewriter.call(aten.gelu.default, x)
            rewriter.replace(last, new)
        rewriter.finish()
        return program


def _match(erf: Node) -> tuple[Node, Node] | None:
    """(last node of the expression, x), or None."""
    inner = _scaled_by(erf.args[0], 1 / math.sqrt(2))
    if inner is None or len(erf.users) != 1:
        return None
    plus = next(iter(erf.users))
    if plus.target is not aten.add.Tensor or 1 not in plus.args:
        return None
    factors: list[object] = []
    last = plus
    while len(factors) < 2:
        if len(last.users) != 1:
            return None
        user = next(iter(last.users))
        if user.target is not aten.mul.Tensor:
            return None
        factors.append(user.args[1] if user.args[0] is last else user.args[0])
        last = user
        if len(factors) == 1 and _scaled_by(factors[0], 0.5) is inner:
            return last, inner
    return (last, inner) if 0.5 in factors and inner in factors else None


def _scaled_by(node: object, factor: float) -> Node | None:
    """x if the node is x·factor (or x / (1/factor))."""
    if not isinstance(node, Node) or node.target not in (aten.mul.Tensor, aten.div.Tensor):
        return None
    x, other = node.args
    if isinstance(other, Node) or not isinstance(x, Node):
        return None
    got = float(other) if node.target is aten.mul.Tensor else 1 / float(other)  # type: ignore[arg-type]
    return x if math.isclose(got, factor, rel_tol=1e-4) else None
