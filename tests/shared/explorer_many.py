"""Ten thousand nodes, for the drawing."""

from __future__ import annotations

from vitc.explorer import Story
from vitc.explorer.records import Node, Step

COUNT = 10_000


def ten_thousand(folded: bool) -> Story:
    """Nodes in a row with skips between them: flat, or in a thousand blocks."""
    nodes = [Node("n0", "input", type="f32[1, 8]")]
    for i in range(1, COUNT):
        path = ("blocks", str(i // 10), "mlp" if i % 10 < 6 else "attn") if folded else ()
        inputs = sorted({f"n{i - 1}", f"n{max(0, i - 1 - i * 7 % 13)}"})
        op = ("aten.linear", "aten.add", "aten.gelu")[i % 3]
        nodes.append(Node(f"n{i}", op, path, "f32[1, 8]", tuple(inputs)))
    values = {"ms": {f"n{i}": i * 37 % 101 / 100 for i in range(COUNT)}}
    return Story("ten thousand nodes", [Step("flat", "captured", tuple(nodes), values=values)])
