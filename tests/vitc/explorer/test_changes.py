"""A pass's changes, by provenance."""

from __future__ import annotations

from dataclasses import replace

from explorer_steps import node, two_steps

from vitc.explorer.changes import difference, identities, short
from vitc.explorer.records import Step, Weight


def test_equal_rewrites_of_equal_blocks_read_alike() -> None:
    before, after = two_steps()
    found = difference(before, after)
    assert set(found.erased) == {f"{x}{i}" for x in "qkv" for i in range(3)}
    assert set(found.created) == {f"{x}{i}" for x in ("linear_default", "split") for i in range(3)}
    assert found.altered == {f"sdpa{i}": ("inputs",) for i in range(3)}
    assert [r.text for r in found.rewrites] == ["3 linear → linear + split"] * 3
    assert [".".join(r.path) for r in found.rewrites] == [f"blocks.{i}.attn" for i in range(3)]


def test_a_name_that_a_pass_takes_again_is_another_node() -> None:
    """`relu` goes, and the pass makes a node which it calls `relu` too: no position and no name says they are one."""
    before = Step("a", "captured", (node("x", "input"), node("relu", inputs=("x",))))
    after = Step("b", "captured", (node("x", "input"), node("relu", inputs=("x",), made_by="pass")))
    found = difference(before, after)
    assert (found.erased, found.created) == (("relu",), ("relu",))
    assert identities([before, after]) == [{"x": 0, "relu": 1}, {"x": 0, "relu": 2}]


def test_a_node_that_moved_is_the_same() -> None:
    a, b, c = node("x", "input"), node("a", inputs=("x",)), node("b", inputs=("x",))
    assert difference(Step("", "", (a, b, c)), Step("", "", (a, c, b))).rewrites == ()


def test_what_changed_in_a_node_that_stayed() -> None:
    was = node("f", "aten.linear", "fc", type="f32[2, 4]", options="%, @", weights=(Weight("w", "f32[4, 4]", "1"),))
    now = replace(was, type="f16[2, 4]", options="%, @, 1", weights=(Weight("w", "f16[4, 4]", "2"),))
    found = difference(Step("", "", (was,)), Step("", "", (now,)))
    assert found.altered == {"f": ("type f32[2, 4] → f16[2, 4]", "options", "weights")}
    assert [r.text for r in found.rewrites] == ["linear: f32 → f16, options, weights"]


def test_weights_of_one_name_and_other_content_are_seen() -> None:
    was = node("f", weights=(Weight("w", "f32[4]", "1"),))
    now = replace(was, weights=(Weight("w", "f32[4]", "2"),))
    assert difference(Step("", "", (was,)), Step("", "", (now,))).altered == {"f": ("weights",)}


def test_short_names() -> None:
    assert [short(op) for op in ("aten.add.Tensor", "vitc.quantize", "getitem", "MatMul", "vitc.VitAttention")] == [
        "add", "quantize", "getitem", "MatMul", "VitAttention"
    ]  # fmt: skip
