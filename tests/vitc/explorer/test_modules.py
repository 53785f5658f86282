"""The module tree: what is left out, what is a series, what differs in it."""

from __future__ import annotations

from explorer_steps import block, graph, node, two_steps

from vitc.explorer.modules import Module, module_tree, nodes_under
from vitc.explorer.records import Node


def tree(nodes: tuple[Node, ...], precision: dict[str, str] | None = None) -> list[Module]:
    return module_tree(nodes, lambda i: (precision or {}).get(nodes[i].name, ""))


def test_modules_of_one_node_are_left_out() -> None:
    found = tree(two_steps()[0].nodes)
    assert [m.path for m in found][:4] == [(), ("blocks",), ("blocks", "0"), ("blocks", "0", "attn")]
    assert len(found) == 8  # the root, blocks, three blocks, three attns; q, k and v hold a node each


def test_a_module_of_one_module_is_written_with_it() -> None:
    found = tree((node("a", path="vit.encoder.x"), node("b", path="vit.encoder.y")))
    assert [(m.label, m.path) for m in found] == [("", ()), ("vit.encoder", ("vit", "encoder"))]


def test_equal_blocks_are_a_series() -> None:
    series = tree(two_steps()[0].nodes)[1].series
    assert series is not None
    assert (series.count, series.equal, series.differ) == (3, 3, {})


def test_a_block_of_another_precision_is_named() -> None:
    nodes = two_steps()[0].nodes
    precision = {f"{x}{i}": "fp16" if i == 1 else "int8" for x in "qkv" for i in range(3)}
    series = tree(nodes, precision)[1].series
    assert series is not None
    assert (series.count, series.equal) == (3, 2)
    assert series.differ == {"1": "3 linear in fp16, the others' in int8"}


def test_a_block_with_another_operator_is_named() -> None:
    parts = [block(0, "x"), block(1, "add0"), block(2, "add1")]
    parts[2].insert(0, node("quantize", "vitc.quantize", "blocks.2.attn.q", ("add1",)))
    series = tree(graph(parts))[1].series
    assert series is not None
    assert series.differ == {"2": "with 1 quantize"}


def test_numbers_that_hold_different_things_are_no_series() -> None:
    found = tree(
        (node("a", path="f.0.conv"), node("b", path="f.0.norm"), node("c", path="f.1.fc"), node("d", path="f.1.q"))
    )
    assert all(m.series is None for m in found)


def test_every_node_is_in_the_tree_once() -> None:
    nodes = two_steps()[0].nodes
    found = tree(nodes)
    assert nodes_under(found, 0) == list(range(len(nodes)))
    assert sorted(i for m in found for i in m.items if i >= 0) == list(range(len(nodes)))
