"""The text form of a graph: one line a node, with type, operator, operands and the user's module.

    %linear : f32[batch, 197, 576] = aten.linear(%layer_norm, @blocks.0.attn.qkv.weight, …)  # blocks.0.attn.qkv

The text is deterministic: dumps of the same program are equal byte for byte, so golden tests compare whole files.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from torch.fx import Graph, Node

from vitc.graph.nodes import module_path

#: How dtypes are written.
DTYPES = {
    torch.float32: "f32",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.float64: "f64",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.bool: "bool",
}


def print_graph(graph: Graph, exact: bool = False) -> str:
    """The whole graph as text, ending in a newline. `exact`: numbers in all their digits and words in quotes, which
    reader.py reads back."""
    symbols: dict[str, str] = {}
    return "".join(f"{_line(node, symbols, exact)}\n" for node in graph.nodes if node.op != "get_attr")


def print_weights(graph: Graph) -> str:
    """The weights that a graph reads, one a line: "@blocks.0.attn.qkv.weight : f32[2304, 768]"."""
    weights = {str(n.target): type_text(n, {}) for n in graph.nodes if n.op == "get_attr"}
    return "".join(f"@{name} : {kind}\n" for name, kind in weights.items())


def _line(node: Node, symbols: dict[str, str], exact: bool) -> str:
    if node.op == "placeholder":
        return f"%{node.name} : {type_text(node, symbols)} = input"
    if node.op == "output":
        return f"return {operand_text(node.args[0], exact)}"
    operands = [operand_text(a, exact) for a in node.args]
    operands += [f"{k}={operand_text(v, exact)}" for k, v in node.kwargs.items()]
    path = module_path(node)
    text = f"%{node.name} : {type_text(node, symbols)} = {op_name(node)}({', '.join(operands)})"
    return f"{text}  # {path}" if path else text


def op_name(node: Node) -> str:
    """'aten.linear', 'vitc.attention', 'getitem'."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        name = str(target)
        return name.removesuffix(".default")
    return getattr(target, "__name__", str(target))


def type_text(node: Node, symbols: dict[str, str]) -> str:
    """A node's type: "f32[batch, 197, 576]". `symbols`: what dynamic sizes are called, kept from node to node."""
    value = node.meta.get("val")
    if isinstance(value, torch.Tensor):
        dims = ", ".join(_dim(d, symbols) for d in value.shape)
        return f"{DTYPES.get(value.dtype, str(value.dtype))}[{dims}]"
    if isinstance(value, (tuple, list)):
        return f"({len(value)} tensors)"
    return "int" if value is not None else "?"


def _dim(dim: Any, symbols: dict[str, str]) -> str:
    """Symbol names differ between captures (s77, s14): they are renamed in order of appearance."""
    if isinstance(dim, int):
        return str(dim)
    text = str(dim)
    for symbol in sorted(getattr(dim.node.expr, "free_symbols", ()), key=str):
        name = symbols.setdefault(str(symbol), "batch" if not symbols else f"dim{len(symbols)}")
        text = text.replace(str(symbol), name)
    return text


def operand_text(value: Any, exact: bool = False) -> str:
    """An operand: "%node", "@weight", a literal, or a list of them."""
    if isinstance(value, Node):
        return f"@{value.target}" if value.op == "get_attr" else f"%{value.name}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(operand_text(v, exact) for v in value)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {operand_text(v, exact)}" for k, v in value.items()) + "}"
    if isinstance(value, float):
        return repr(value) if exact else f"{value:.6g}"
    if isinstance(value, str) and exact:
        return json.dumps(value)
    return str(value)
