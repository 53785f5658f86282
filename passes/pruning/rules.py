"""How features pass through each operator: one rule an operator, the table at the end.

A rule gets the flow, the node and the tags of its operands and returns the tags of the result, or None where no feature
can be followed further (the features that end there are then frozen, with the reason). Data movement is not described:
it is run, on the tags.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.fx import Node
from torch.fx.node import map_arg

from vitc.graph import constant
from vitc.graph.movement import MOVEMENT, SPLITTING, example_shape, example_size
from vitc.graph.nodes import is_constant, is_tensor, where
from vitc.passes.pruning.flow import Flow
from vitc.passes.pruning.products import Operands, Tags, attention, matmul, meet, reduce, softmax
from vitc.passes.pruning.tags import NOBODY, core, packed, varies
from vitc.program import Program

aten = torch.ops.aten
sdpa = aten.scaled_dot_product_attention.default

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
CONVOLUTIONS = frozenset({aten.conv1d.default, aten.conv2d.default, aten.conv3d.default, aten.conv2d.padding})
LAYERS = CONVOLUTIONS | {aten.linear.default}
#: Movement that can also read constant tensors of positions.
_MORE_MOVEMENT = frozenset(
    {aten.roll.default, aten.repeat.default, aten.flip.default, aten.index.Tensor, aten.index_select.default, aten.unfold.default}
)
_PADS = frozenset({aten.constant_pad_nd.default, aten.pad.default})
#: Each channel of [B, C, …] by itself, whatever happens to the other dimensions.
_CHANNELWISE = frozenset(
    {
        aten.avg_pool2d.default, aten.max_pool2d.default, aten.adaptive_avg_pool2d.default, aten._adaptive_avg_pool2d.default,
        aten.adaptive_avg_pool1d.default,
        aten.upsample_bilinear2d.vec, aten.upsample_bicubic2d.vec, aten.upsample_nearest2d.vec,
        aten.upsample_bilinear2d.default, aten.upsample_bicubic2d.default, aten.upsample_nearest2d.default,
    }
)  # fmt: skip


def follow(program: Program) -> Flow:
    """Numbers the features of a canonical program and pushes them through its graph."""
    flow = Flow()
    twins: dict[str, Node] = {}
    for node in program.graph.nodes:
        if node.op == "output":
            for operand in node.all_input_nodes:
                flow.freeze(flow.tags.get(operand), "the model returns them")
        if node.op != "call_function" or isinstance(node.meta["val"], (int, torch.SymInt)):
            continue
        result = _apply(program, flow, node, twins)
        if isinstance(result, tuple):
            flow.tags[node] = tuple(packed(t) for t in result)
        elif result is not None:
            flow.tags[node] = packed(result)
    return flow


def _apply(program: Program, flow: Flow, node: Node, twins: dict[str, Node]) -> Any:
    if node.target in LAYERS:
        return _layer(flow, node, twins)
    if node.target in MOVEMENT | SPLITTING | _MORE_MOVEMENT and node.args[0] in flow.tags:
        return _run(program, node, flow.tags[node.args[0]])
    rule = RULES.get(node.target)
    if not any(n in flow.tags for n in node.all_input_nodes):
        return None
    result = rule(flow, node, flow.tags) if rule is not None else None
    if result is None:
        for operand in node.all_input_nodes:
            flow.freeze(flow.tags.get(operand), f"they reach {where(node)}, behind which features are not followed")
    return result


def channel_dim(layer: Node) -> int:
    """The dimension of a layer's operand and result that its weight acts on."""
    return 1 if layer.target in CONVOLUTIONS else len(example_shape(layer)) - 1


def conv_groups(layer: Node) -> int:
    return int(layer.args[6]) if layer.target in CONVOLUTIONS and len(layer.args) > 6 else 1


def is_depthwise(layer: Node) -> bool:
    groups = conv_groups(layer)
    return groups > 1 and groups == example_shape(layer)[1] == example_shape(layer.args[0])[1]


def _layer(flow: Flow, node: Node, twins: dict[str, Node]) -> Tags | None:
    source, weight, dim = node.args[0], node.args[1], channel_dim(node)
    incoming = flow.tags.get(source)
    if not is_constant(weight):
        flow.freeze(incoming, f"they reach {where(node)}, whose weight is computed")
        flow.freeze(flow.tags.get(weight), f"they are the weight of {where(node)}")
        return None
    shape = [1] * len(example_shape(node))
    shape[dim] = -1
    if incoming is not None and conv_groups(node) > 1 and not is_depthwise(node):
        flow.freeze(incoming, f"{where(node)} is a grouped convolution")
    elif incoming is not None:
        flow.columns[node] = _columns(flow, node, incoming, dim)
    if is_depthwise(node):
        row = flow.columns.get(node)
        return None if row is None else row.reshape(shape).expand(example_shape(node))
    numbers = flow.number(node, example_shape(node)[dim])
    twin = twins.setdefault(str(weight.target), node)
    if twin is not node:
        flow.tie(numbers, core(flow.tags[twin]).flatten(), node)
        if node in flow.columns and twin in flow.columns:
            flow.tie(flow.columns[node], flow.columns[twin], node)
    if conv_groups(node) > 1:
        flow.freeze(numbers, f"{where(node)} is a grouped convolution")
    return numbers.reshape(shape).expand(example_shape(node))


def _columns(flow: Flow, node: Node, tags: Tags, dim: int) -> Tags:
    """The feature at each place of `dim`; several in one place are tied, because one weight column reads them all."""
    rows = core(tags).movedim(dim, -1)
    rows = rows.reshape(-1, rows.shape[-1])
    one = rows.amax(0)
    flow.tie(rows, one.expand_as(rows), node)
    return one.expand(tags.shape[dim])


def _run(program: Program, node: Node, tags: Any) -> Any:
    def value(operand: Node) -> Any:
        return constant(program.module, operand) if is_constant(operand) else example_size(operand)

    if isinstance(tags, tuple):
        return None
    args = map_arg(node.args[1:], value)
    if node.target in (aten.view.default, aten._unsafe_view.default, aten.reshape.default):
        return tags.reshape(args[0])
    result = node.target(tags, *args, **node.kwargs)
    return tuple(result) if isinstance(result, (list, tuple)) else result


def _getitem(flow: Flow, node: Node, tags: Operands) -> Tags | None:
    whole = tags.get(node.args[0])
    return whole[node.args[1]] if isinstance(whole, tuple) else None


def _pointwise(flow: Flow, node: Node, tags: Operands) -> Tags | None:
    return tags.get(node.args[0])


def _concatenate(flow: Flow, node: Node, tags: Operands) -> Tags | None:
    parts: list[Node] = node.args[0]  # type: ignore[assignment]
    dim = int(node.args[1]) if len(node.args) > 1 else int(node.kwargs.get("dim", 0))
    known = [tags[n] for n in parts if n in tags]
    if any(n not in tags and not from_constants(n) for n in parts):
        return None
    if not any(varies(t, dim) for t in known):  # tokens of a weight are sliced like their neighbours
        for other in known[1:]:
            flow.tie(known[0].narrow(dim, 0, 1), other.narrow(dim, 0, 1), node)
        return known[0].narrow(dim, 0, 1).expand(example_shape(node))
    return torch.cat([tags[n] if n in tags else torch.full(example_shape(n), NOBODY, dtype=torch.int32) for n in parts], dim)


def _stack(flow: Flow, node: Node, tags: Operands) -> Tags | None:
    parts: list[Node] = node.args[0]  # type: ignore[assignment]
    if any(n not in tags for n in parts):
        return None
    return torch.stack([tags[n] for n in parts], *node.args[1:], **node.kwargs)


def _pad(flow: Flow, node: Node, tags: Operands) -> Tags:
    tensor: Tags = tags[node.args[0]]
    pads: list[int] = node.args[1]  # type: ignore[assignment]
    padded = [tensor.ndim - 1 - i // 2 for i, p in enumerate(pads) if p]
    if not varies(tensor, *padded):
        return core(tensor).expand(example_shape(node))
    return torch.constant_pad_nd(tensor, pads, NOBODY)


def _binary(flow: Flow, node: Node, tags: Operands) -> Tags | None:
    left, right = node.args[:2]
    if left in tags and right in tags:
        return meet(flow, node, tags[left], tags[right])
    known, other = (tags[left], right) if left in tags else (tags[right], left)
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
    known = tags.get(node.args[0])
    if known is None:
        return None
    dims = range(known.ndim - len(node.args[1]), known.ndim)
    if varies(known, *dims):
        flow.mark(flow.normed, known)
        flow.mark(flow.indexed, known)
    return known


def _group_norm(flow: Flow, node: Node, tags: Operands) -> Tags | None:
    known = tags[node.args[0]]
    if node.args[1] != 1:
        return None
    flow.mark(flow.normed, known)
    return known


def _channelwise(flow: Flow, node: Node, tags: Operands) -> Tags | None:
    known = tags[node.args[0]]
    return None if varies(known, *range(2, known.ndim)) else core(known).expand(example_shape(node))


def from_constants(node: Node) -> bool:
    """A weight, or a rearranged or summed weight."""
    if is_constant(node):
        return True
    moved = node.target in MOVEMENT | _MORE_MOVEMENT or node.target in BINARY
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
