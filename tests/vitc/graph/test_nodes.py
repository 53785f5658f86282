"""Reading a node: what is not there is our fault, and said with the node."""

from __future__ import annotations

import pytest
import torch
from torch.fx import Graph

from vitc.errors import InternalError
from vitc.graph.nodes import argument, called, operand, val

aten = torch.ops.aten


def test_arguments_by_place_by_keyword_or_not_at_all() -> None:
    graph = Graph()
    x = graph.placeholder("x")
    for args, kwargs, want in (((x, 2), {}, 2), ((x,), {"dim": 1}, 1), ((x,), {}, 0)):
        assert argument(graph.call_function(aten.softmax.int, args, kwargs), 1, "dim", 0) == want


def test_what_is_no_node_no_operator_or_no_tensor() -> None:
    graph = Graph()
    x = graph.placeholder("x")
    node = graph.call_function(aten.softmax.int, (x, 1))
    assert operand(node) is x
    assert called(node) is aten.softmax.int
    with pytest.raises(InternalError, match=r"argument 1 of node softmax_int \(aten.softmax.int\) is no node, but int"):
        operand(node, 1)
    with pytest.raises(InternalError, match=r"node x \(x\) calls nothing"):
        called(x)
    with pytest.raises(InternalError, match="carries no tensor value, but NoneType"):
        val(node)
