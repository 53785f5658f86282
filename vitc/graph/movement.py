"""Data movement: operators that only rearrange elements, and what a chain of them amounts to.

Whether a chain of views, transposes and selects equals another is decided by running it: the chain is replayed on a
tensor of element indices and the results are compared. That is exact for any spelling, where pattern lists are not.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch.fx import Node
from torch.fx.node import map_arg

from vitc.errors import InternalError

aten = torch.ops.aten

#: Operators whose first operand's elements are rearranged, dropped or repeated, never computed with.
MOVEMENT = frozenset(
    {
        aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten.flatten.using_ints,
        aten.unflatten.int, aten.transpose.int, aten.permute.default, aten.t.default, aten.unsqueeze.default,
        aten.squeeze.dim, aten.squeeze.dims, aten.select.int, aten.slice.Tensor, aten.expand.default,
        aten.clone.default, aten.contiguous.default, aten.alias.default, aten.movedim.int,
    }
)  # fmt: skip
#: The same with several results, read through getitem.
SPLITTING = frozenset(
    {aten.unbind.int, aten.chunk.default, aten.split.Tensor, aten.split_with_sizes.default, aten.split.sizes}
)


def moved_from(node: Node) -> Node | None:
    """The node whose elements this one rearranges, or None if it computes something."""
    if node.op != "call_function":
        return None
    if node.target is operator.getitem:
        parent = node.args[0]
        if isinstance(parent, Node) and parent.target in SPLITTING:
            return parent.args[0]  # type: ignore[return-value]
        return None
    if node.target in MOVEMENT:
        return node.args[0]  # type: ignore[return-value]
    return None


def ancestry(node: Node) -> list[Node]:
    """The node, what it is moved from, and so on up to the first that computes something."""
    chain = [node]
    while (parent := moved_from(chain[-1])) is not None:
        chain.append(parent)
    return chain


def descendants(node: Node) -> Iterator[Node]:
    """The nodes that rearrange `node`, nearest first, while each has one user."""
    while len(node.users) == 1:
        (user,) = node.users
        if moved_from(user) is not node:
            return
        yield user
        node = user


def example_size(size: Any) -> int:
    """A size as the example inputs had it."""
    if isinstance(size, Node):
        size = size.meta["val"]
    return int(size) if isinstance(size, int) else int(size.node.hint)


def example_shape(node: Node) -> tuple[int, ...]:
    return tuple(example_size(s) for s in node.meta["val"].shape)


def replay(node: Node, source: Node, value: torch.Tensor) -> torch.Tensor:
    """What `node` would be if `source` were `value`; everything between them must be data movement."""
    if node is source:
        return value
    parent = moved_from(node)
    if parent is None:
        raise InternalError(f"{node.name} is not moved from {source.name}")
    moved = replay(parent, source, value)
    if node.target is operator.getitem:
        splitter: Node = node.args[0]  # type: ignore[assignment]
        return _run(splitter, moved)[node.args[1]]  # type: ignore[no-any-return]
    return _run(node, moved)  # type: ignore[no-any-return]


def _run(node: Node, moved: torch.Tensor) -> Any:
    args = map_arg(node.args[1:], example_size)
    if node.target in (aten.view.default, aten._unsafe_view.default):
        return moved.reshape(args[0])  # type: ignore[arg-type]  # the replayed strides may differ
    return node.target(moved, *args, **node.kwargs)  # type: ignore[operator]


def indices(node: Node) -> torch.Tensor:
    """A tensor of the node's shape that numbers its elements."""
    shape = example_shape(node)
    return torch.arange(int(torch.tensor(shape).prod()), dtype=torch.int32).reshape(shape)
