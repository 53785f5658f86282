"""A small graph before and after a pass, as the explorer's tests see it."""

from __future__ import annotations

from vitc.explorer.records import Node, Step, Weight


def node(name: str, op: str = "aten.relu", path: str = "", inputs: tuple[str, ...] = (), **more: object) -> Node:
    """A node with what a test does not care for left plain."""
    fields = {"type": "f32[2, 4]", "origin": name, **more}
    return Node(name, op, tuple(filter(None, path.split("."))), inputs=inputs, **fields)  # type: ignore[arg-type]


def block(i: int, reads: str) -> list[Node]:
    """Three linears and an attention of block `i`."""
    at = f"blocks.{i}"
    weight = (Weight(f"{at}.attn.q.weight", "f32[4, 4]", "aa"),)
    q, k, v = (node(f"{x}{i}", "aten.linear", f"{at}.attn.{x}", (reads,), weights=weight) for x in "qkv")
    mixed = node(f"sdpa{i}", "aten.scaled_dot_product_attention", f"{at}.attn", (f"q{i}", f"k{i}", f"v{i}"))
    return [q, k, v, mixed, node(f"add{i}", "aten.add.Tensor", at, (reads, f"sdpa{i}"))]


def merged(i: int, reads: str) -> list[Node]:
    """The same after merge-qkv."""
    at = f"blocks.{i}.attn"
    made = {"made_by": "merge-qkv", "origin": f"q{i}"}
    return [
        node(f"linear_default{i}", "aten.linear", f"{at}.q", (reads,), **made),
        node(f"split{i}", "aten.split", f"{at}.q", (f"linear_default{i}",), **made),
        node(f"sdpa{i}", "aten.scaled_dot_product_attention", at, (f"split{i}",)),
        node(f"add{i}", "aten.add.Tensor", f"blocks.{i}", (reads, f"sdpa{i}")),
    ]


def graph(parts: list[list[Node]]) -> tuple[Node, ...]:
    last = parts[-1][-1].name if parts else "x"
    return (node("x", "input"), *(n for part in parts for n in part), node("output", "output", inputs=(last,)))


def two_steps() -> list[Step]:
    """Three blocks as captured, and after a pass that merged their linears."""
    names = ["x", "add0", "add1"]
    before = Step("captured", "captured", graph([block(i, names[i]) for i in range(3)]))
    after = Step(
        "merge-qkv",
        "canonical",
        graph([merged(i, names[i]) for i in range(3)]),
        notes=("3 merged",),
        values={"ms": {"linear_default0": 0.5, "sdpa0": 0.25}},
        seconds=0.125,
    )
    return [before, after]
