"""How features pass through each operator: one rule for each operator, the table at the end.

A rule gets the flow, the node and the tags of its operands and returns the tags of the result, or None where no feature
can be followed further (the features that end there are then frozen, with the reason).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.fx import Node

from vitc.graph.movement import MOVEMENT, example_shape
from vitc.graph.nodes import argument, is_constant, is_tensor, operand
from vitc.passes.pruning.find.flow import Flow
from vitc.passes.pruning.find.products import Operands, Tags, attention, matmul, meet, reduce, sdpa, softmax
from vitc.passes.pruning.find.tags import NOBODY, core, varies

aten = torch.ops.aten

Rule = Callable[[Flow, Node, Operands], Any]

#: Each element of the result depends on the same element of the operand alone. f(0) need not be 0.
POINTWISE = frozenset(
    {
        aten.gelu.default, aten.silu.default, aten.relu.default, aten.sigmoid.default, aten.tanh.default,
        aten.hardswish.default, aten.hardsigmoid.default, aten.hardtanh.default, aten.neg.default, aten.erf.default,
        aten.exp.default, aten.relu6.default, aten.leaky_relu.default, aten.elu.default, aten.square.default,
        aten.sqrt.default, aten.rsqrt.default, aten.reciprocal.default, aten.softplus.default, aten.mish.default,
        aten.pow.Tensor_Scalar, aten._to_copy.default, aten.to.dtype, aten.clamp.default, aten.clamp_min.default,
        aten.clamp_max.default, aten.mul.Scalar, aten.add.Scalar,
    }
)  # fmt: skip
BINARY = frozenset({aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor})
#: Movement that can also read constant tensors of positions.
MORE_MOVEMENT = frozenset(
    {
        aten.roll.default,
        aten.repeat.default,
        aten.flip.default,
        aten.index.Tensor,
        aten.index_select.default,
        aten.unfold.default,
    }
)
_PADS = frozenset({aten.constant_pad_nd.default, aten.pad.default})
#: Each channel of [B, C, …] by itself, whatever happens to the other dimensions.
_CHANNELWISE = frozenset(
    {
        aten.avg_pool2d.default, aten.max_pool2d.default, aten.adaptive_avg_pool2d.default,
        aten._adaptive_avg_pool2d.default,
        aten.adaptive_avg_pool1d.default,
        aten.upsample_bilinear2d.vec, aten.upsample_bicubic2d.vec, aten.upsample_nearest2d.vec,
        aten.upsample_bilinear2d.default, aten.upsample_bicubic2d.default, aten.upsample_nearest2d.default,
    }
)  # fmt: skip


def _getitem(flow: Flow, node: Node, tags: Operands) -> Tags | None:
    whole = tags.get(operand(node))
    return whole[argument(node, 1)] if isinstance(whole, tuple) else None


def _pointwise(flow: Flow, node: Node, tags: Operands) -> Tags | None:
    return tags.get(operand(node))


def _concatenate(flow: Flow, node: Node, tags: Operands) -> Tags | None:
    parts: Sequence[Node] = argument(node, 0)
    dim = int(argument(node, 1, "dim", 0))
    known: list[Tags] = [tags[n] for n in parts if n in tags]
    if any(n not in tags and not from_constants(n) for n in parts):
        return None
    if not any(varies(t, dim) for t in known):  # tokens of a weight are sliced like their neighbours
        for other in known[1:]:
            flow.tie(known[0].narrow(dim, 0, 1), other.narrow(dim, 0, 1), node)
        return known[0].narrow(dim, 0, 1).expand(example_shape(node))
    return torch.cat(
        [tags[n] if n in tags else torch.full(example_shape(n), NOBODY, dtype=torch.int32) for n in parts], dim
    )


def _stack(flow: Flow, node: Node, tags: Operands) -> Tags | None:
    parts: Sequence[Node] = argument(node, 0)
    if any(n not in tags for n in parts):
        return None
    return torch.stack([tags[n] for n in parts], int(argument(node, 1, "dim", 0)))


def _pad(flow: Flow, node: Node, tags: Operands) -> Tags:
    tensor: Tags = tags[operand(node)]
    pads: Sequence[int] = argument(node, 1)
    padded = [tensor.ndim - 1 - i // 2 for i, p in enumerate(pads) if p]
    if not varies(tensor, *padded):
        return core(tensor).expand(example_shape(node))
    return torch.constant_pad_nd(tensor, pads, NOBODY)


def _binary(flow: Flow, node: Node, tags: Operands) -> Tags | None:
    left, right = argument(node, 0), argument(node, 1)
    if left in tags and right in tags:
        return meet(flow, node, tags[left], tags[right])
    known: Tags = tags[left if left in tags else right]
    other = right if left in tags else left
    if not is_tensor(other):
        return known
    shape = example_shape(node)
    aligned = (1,) * (len(shape) - len(example_shape(other))) + example_shape(other)
    small = core(known)
    small = small.reshape((1,) * (len(shape) - small.ndim) + tuple(small.shape))
    if any(a > 1 and s > 1 for a, s in zip(aligned, small.shape, strict=True)):
        if not from_constants(other):
            return None
        flow.mark(flow.indexed, known)
    return small.expand(shape)


def _norm_over_row(flow: Flow, node: Node, tags: Operands) -> Tags | None:
    known: Tags | None = tags.get(operand(node))
    if known is None:
        return None
    dims = range(known.ndim - len(argument(node, 1)), known.ndim)
    if varies(known, *dims):
        flow.mark(flow.normed, known)
        flow.mark(flow.indexed, known)
    return known


def _group_norm(flow: Flow, node: Node, tags: Operands) -> Tags | None:
    known: Tags = tags[operand(node)]
    if node.args[1] != 1:
        return None
    flow.mark(flow.normed, known)
    return known


def _channelwise(flow: Flow, node: Node, tags: Operands) -> Tags | None:
    known: Tags = tags[operand(node)]
    return None if varies(known, *range(2, known.ndim)) else core(known).expand(example_shape(node))


def from_constants(node: Node) -> bool:
    """A weight, or a rearranged or summed weight."""
    if is_constant(node):
        return True
    moved = node.target in MOVEMENT | MORE_MOVEMENT or node.target in BINARY
    return moved and all(from_constants(n) for n in node.all_input_nodes if is_tensor(n))


RULES: Mapping[Any, Rule] = {
    operator.getitem: _getitem,
    aten.cat.default: _concatenate,
    aten.stack.default: _stack,
    aten.layer_norm.default: _norm_over_row,
    aten.rms_norm.default: _norm_over_row,
    aten.group_norm.default: _group_norm,
    aten.softmax.int: softmax,
    aten._softmax.default: softmax,
    aten.matmul.default: matmul,
    aten.bmm.default: matmul,
    sdpa: attention,
    **dict.fromkeys(POINTWISE, _pointwise),
    **dict.fromkeys(BINARY, _binary),
    **dict.fromkeys(_PADS, _pad),
    **dict.fromkeys(_CHANNELWISE, _channelwise),
    **dict.fromkeys((aten.mean.dim, aten.sum.dim_IntList, aten.amax.default, aten.linalg_vector_norm.default), reduce),
}
