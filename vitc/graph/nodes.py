"""Reading an FX node: its value's shape and dtype, its weights, and the user's module it came from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import GraphModule, Node

from vitc.errors import InternalError


def val(node: Node) -> torch.Tensor:
    """The fake tensor that stands for the node's result."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        raise InternalError(f"node {node.name} ({node.target}) carries no tensor value, but {type(value).__name__}")
    return value


def operand(node: Node, at: int = 0) -> Node:
    """The node that is an argument of `node`."""
    found = node.args[at]
    if not isinstance(found, Node):
        raise InternalError(f"argument {at} of {where(node)} is no node, but {type(found).__name__}")
    return found


def argument(node: Node, at: int, keyword: str = "", default: Any = None) -> Any:
    """An argument that may stand in its place, by its keyword, or not at all."""
    return node.args[at] if len(node.args) > at else node.kwargs.get(keyword, default)


def called(node: Node) -> Callable[..., Any]:
    """The operator of a call_function node."""
    if not callable(node.target):
        raise InternalError(f"{where(node)} calls nothing")
    return node.target


def is_tensor(node: Any) -> bool:
    return isinstance(node, Node) and isinstance(node.meta.get("val"), torch.Tensor)


def shape_of(node: Node) -> tuple[Any, ...]:
    """The node's shape: ints, and SymInts where a dimension is dynamic."""
    return tuple(val(node).shape)


def same_shape(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    """Equal ranks and dimensions; two dynamic dimensions are equal if they are the same expression."""
    return len(a) == len(b) and all(str(x) == str(y) for x, y in zip(a, b, strict=True))


def is_constant(node: Any) -> bool:
    """True for a weight or buffer."""
    return isinstance(node, Node) and node.op == "get_attr"


def constant(module: GraphModule, node: Node) -> torch.Tensor:
    """The real tensor behind a get_attr node."""
    value: Any = module
    for part in str(node.target).split("."):
        value = getattr(value, part)
    if not isinstance(value, torch.Tensor):
        raise InternalError(f"{node.target} is a {type(value).__name__}, not a tensor")
    return value.detach()


def module_path(node: Node) -> str:
    """The path of the user's module that the node came from, such as 'blocks.3.attn.qkv'; '' for the root."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [entry[0] for entry in stack.values()]
    if not paths or paths[-1].startswith("_empty_nn_module_stack"):
        return ""
    return str(paths[-1])


def where(node: Node) -> str:
    """How an error names a node: its name, its operator, and the user's module."""
    path = module_path(node)
    return f"node {node.name} ({node.target}{f', in {path}' if path else ''})"


def sole_user(node: Node) -> Node | None:
    """The node's one user, or None if it has none or several."""
    return next(iter(node.users)) if len(node.users) == 1 else None
