"""Linears and convolutions: what makes features and reads them."""

from __future__ import annotations

import torch
from torch.fx import Node

from vitc.graph.movement import example_shape
from vitc.graph.nodes import argument, is_constant, operand, where
from vitc.passes.pruning.find.flow import Flow
from vitc.passes.pruning.find.products import Tags
from vitc.passes.pruning.find.tags import core

aten = torch.ops.aten

CONVOLUTIONS = frozenset({aten.conv1d.default, aten.conv2d.default, aten.conv3d.default, aten.conv2d.padding})
LAYERS = CONVOLUTIONS | {aten.linear.default}


def channel_dim(layer: Node) -> int:
    """The dimension of a layer's operand and result that its weight acts on."""
    return 1 if layer.target in CONVOLUTIONS else len(example_shape(layer)) - 1


def conv_groups(layer: Node) -> int:
    return int(argument(layer, 6, "groups", 1)) if layer.target in CONVOLUTIONS else 1


def is_depthwise(layer: Node) -> bool:
    groups = conv_groups(layer)
    return groups > 1 and groups == example_shape(layer)[1] == example_shape(operand(layer))[1]


def through_layer(flow: Flow, node: Node, twins: dict[str, Node]) -> Tags | None:
    """The rule of layers: their rows are new features. `twins`: the first layer of each weight."""
    weight, dim = operand(node, 1), channel_dim(node)
    incoming = flow.tags_of(operand(node))
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
    made = flow.tags_of(twin)
    if made is not None:  # else the twin is the layer itself
        flow.tie(numbers, core(made).flatten(), node)
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
