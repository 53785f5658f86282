"""drop-noops: what changes nothing in inference goes.

Views become reshapes at the same time: the copies that made a view's strides legal are among what goes. A sum with a
factor, which torch.add and torch.sub have, is written out, so that no later pass need look for one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.fx import Node

from vitc.graph import Rewriter
from vitc.graph.nodes import is_tensor, operand, same_shape, shape_of, val
from vitc.graph.program import Program
from vitc.pipeline import Pass, register_pass

aten = torch.ops.aten

#: The identity whatever its operands.
_ALWAYS = {
    aten.clone.default, aten.alias.default, aten.detach.default, aten.detach_.default, aten.contiguous.default,
    aten.lift_fresh_copy.default, aten.dropout.default, aten.feature_dropout.default,
}  # fmt: skip
#: The identity if shape and dtype are unchanged.
_IF_SAME = {
    aten.reshape.default, aten.expand.default, aten._to_copy.default,
    aten.type_as.default, aten.slice.Tensor, aten.pad.default,
    aten.constant_pad_nd.default, aten.flatten.using_ints, aten.squeeze.dim,
}  # fmt: skip


@register_pass
@dataclass(frozen=True)
class DropNoops(Pass):
    """Removes clones, inactive dropout, casts to the same dtype, views to the same shape, pads by nothing."""

    name = "drop-noops"

    def run(self, program: Program) -> Program:
        rewriter = Rewriter(program.module, self.name)
        for node in list(program.graph.nodes):
            if node.target in (aten.view.default, aten._unsafe_view.default):
                rewriter.edit(node, target=aten.reshape.default)
            node = _without_alpha(rewriter, node)
            if not _is_noop(node):
                continue
            rewriter.replace(node, operand(node))
        rewriter.finish()
        return program


def _without_alpha(rewriter: Rewriter, node: Node) -> Node:
    if node.target not in (aten.add.Tensor, aten.sub.Tensor) or node.kwargs.get("alpha", 1) == 1:
        return node
    x, other = node.args[:2]
    alpha = node.kwargs["alpha"]
    with rewriter.at(node):
        if isinstance(other, Node) and val(other).dtype == torch.bool:
            return node  # a product of a boolean with a number is none: the lowering does both at once
        scaled = rewriter.call(aten.mul.Tensor, other, alpha) if isinstance(other, Node) else other * alpha  # type: ignore[operator]
        new = rewriter.call(node.target, x, scaled)
        if val(new).dtype != val(node).dtype:
            return node
    rewriter.replace(node, new)
    return new


def _is_noop(node: Node) -> bool:
    if node.op != "call_function" or not node.args or not is_tensor(node) or not is_tensor(node.args[0]):
        return False
    source: Node = node.args[0]  # type: ignore[assignment]
    if val(node).dtype != val(source).dtype or not same_shape(shape_of(node), shape_of(source)):
        return False
    if node.target in _ALWAYS or node.target in _IF_SAME:
        return True
    if node.target is aten.permute.default:
        return list(node.args[1]) == list(range(len(node.args[1])))  # type: ignore[arg-type]
    if node.target in (aten.mul.Tensor, aten.div.Tensor):
        return node.args[1] in (1, 1.0) and not isinstance(node.args[1], Node)
    if node.target in (aten.add.Tensor, aten.sub.Tensor):
        return node.args[1] in (0, 0.0) and not isinstance(node.args[1], Node)
    return False
