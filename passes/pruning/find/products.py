"""Where features meet: elementwise, in products of matrices, in attention, and in reductions. Rules as in
vitc.passes.pruning.find.rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.fx import Node

from vitc.graph.movement import example_shape
from vitc.graph.nodes import argument, operand
from vitc.passes.pruning.find.flow import Flow
from vitc.passes.pruning.find.tags import NOBODY, core, varies, without

aten = torch.ops.aten
sdpa = aten.scaled_dot_product_attention.default

Tags = torch.Tensor
Operands = Mapping[Node, Any]


def meet(flow: Flow, node: Node, a: Tags, b: Tags) -> Tags:
    """Two features in one element: one inside the other goes on alone, others are tied."""
    shape = torch.broadcast_shapes(a.shape, b.shape)
    a, b = (core(t).reshape((1,) * (len(shape) - t.ndim) + tuple(core(t).shape)) for t in (a, b))
    a, b = torch.broadcast_tensors(a, b)
    real = (a != NOBODY) & (b != NOBODY)
    a_in_b, b_in_a = (real & (flow.parent[x.clamp(0).long()] == y) for x, y in ((a, b), (b, a)))
    a, b = torch.where(b_in_a, b, a), torch.where(a_in_b, a, b)
    flow.tie(a, b, node)
    if node.target in (aten.add.Tensor, aten.sub.Tensor):
        differ = a != b
        flow.mark(flow.summed, a[differ])
        flow.mark(flow.summed, b[differ])
    return torch.maximum(a, b).expand(shape)


def softmax(flow: Flow, node: Node, tags: Operands) -> Tags | None:
    known: Tags = tags[operand(node)]
    return None if varies(known, int(argument(node, 1))) else known


def reduce(flow: Flow, node: Node, tags: Operands) -> Tags | None:
    """A sum, mean, maximum or norm. Over features of a head only a norm goes on: it is one number a head."""
    known: Tags = tags[operand(node)]
    given = argument(node, 2 if node.target is aten.linalg_vector_norm.default else 1, "dim")
    listed = [given] if isinstance(given, int) else range(known.ndim) if given is None else given
    dims = tuple(d % known.ndim for d in listed)
    keepdim = example_shape(node) != () and len(example_shape(node)) == known.ndim
    if not varies(known, *dims):
        return without(known, dims, keepdim)
    if node.target is not aten.linalg_vector_norm.default:
        return None
    heads = new_heads(flow, node, known.amax(dims, keepdim=True))
    if heads is None:
        return None
    flow.contain(known, heads, "whole", node)
    return heads.expand([1 if d in dims else s for d, s in enumerate(known.shape)]) if keepdim else without(heads, dims)


def new_heads(flow: Flow, node: Node, key: Tags) -> Tags | None:
    """New features, one for each distinct entry of `key`, in the shape of `key`."""
    small = core(key)
    distinct, index = small.unique(return_inverse=True)
    if distinct[0] == NOBODY:
        return None
    return flow.number(node, len(distinct))[index].expand(key.shape)


def matmul(flow: Flow, node: Node, tags: Operands) -> Tags | None:
    a, b = (tags.get(operand(node, i)) for i in range(2))
    if a is None or b is None:
        known, rest = (b, -2) if a is None else (a, -1)
        assert known is not None
        if varies(known, rest % known.ndim):
            return None
        return core(known).expand(example_shape(node))
    return product(flow, node, a, b, example_shape(node))


def product(flow: Flow, node: Node, a: Tags, b: Tags, shape: tuple[int, ...]) -> Tags | None:
    """The tags of a @ b: [..., I, K] by [..., K, J].

    Features that are contracted are tied in pairs and stay inside of heads, one for each matrix; what is only carried
    (probabilities times values) stays itself.
    """
    rank = len(shape)
    a, b = (t.reshape((1,) * (rank - t.ndim) + tuple(t.shape)) for t in (a, b))
    i, j = rank - 2, rank - 1
    contracted = varies(a, j) or varies(b, i)
    rows, columns = varies(a, i), varies(b, j)
    if not contracted and not (rows and columns):
        if columns:
            flow.contain(b.narrow(i, 0, 1), a.narrow(i, 0, 1).narrow(j, 0, 1), "v", node)
            return core(b).expand(shape)
        if rows:
            flow.contain(a.narrow(j, 0, 1), b.narrow(i, 0, 1).narrow(j, 0, 1), "v", node)
            return core(a).expand(shape)
        return meet(flow, node, core(a).expand((*a.shape[:-2], 1, 1)), core(b).expand((*b.shape[:-2], 1, 1))).expand(
            shape
        )
    small = core(a)
    key = small.amax((i, j), keepdim=True).expand((*a.shape[:-2], 1, 1))
    heads = new_heads(flow, node, torch.broadcast_tensors(key, b.narrow(i, 0, 1).narrow(j, 0, 1))[0])
    if heads is None:
        return None
    paired = varies(a, j) and varies(b, i) and not rows and not columns
    if paired:
        flow.tie(a.narrow(i, 0, 1).transpose(i, j), b.narrow(j, 0, 1), node)
    for factor in (a, b):
        flow.contain(factor, heads, "qk" if paired else "whole", node)
    return core(heads).expand(shape)


def attention(flow: Flow, node: Node, tags: Operands) -> Tags | None:
    """scaled_dot_product_attention as what it is: two products with a softmax between."""
    q, k, v = (tags.get(operand(node, i)) for i in range(3))
    if (
        q is None or k is None or v is None or node.kwargs.get("enable_gqa")
    ):  # several heads of queries share one of keys
        return None
    if argument(node, 3, "attn_mask") in tags:
        return None
    scores = product(flow, node, q, k.transpose(-1, -2), (*q.shape[:-1], k.shape[-2]))
    return None if scores is None else product(flow, node, scores, v, (*q.shape[:-1], v.shape[-1]))
