"""The one way a pass changes a graph: what it makes or edits is typed, named after the user's module and counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch._guards import detect_fake_mode
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from vitc.errors import PassError
from vitc.graph.nodes import same_shape, where

CHANGED_BY = "changed_by"
"""The key in a node's meta under which the pass stands that edited it."""
#: What a new node inherits from the node it stands for.
_PROVENANCE = ("nn_module_stack", "stack_trace", "from_node")


class Rewriter:
    """Creates, edits, replaces and erases nodes of one graph on behalf of one pass.

    >>> rewriter = Rewriter(module, "drop-noops")
    >>> with rewriter.at(node):
    ...     new = rewriter.call(torch.ops.aten.relu.default, x)
    >>> rewriter.replace(node, new)

    The pass manager counts what was created, erased and changed in place, and writes it into the journal.
    """

    def __init__(self, module: GraphModule, made_by: str) -> None:
        self.module = module
        self.graph = module.graph
        self.made_by = made_by
        self._like: Node | None = None
        vals = [n.meta["val"] for n in self.graph.nodes if isinstance(n.meta.get("val"), torch.Tensor)]
        self.fake_mode = detect_fake_mode(vals) or FakeTensorMode(allow_non_fake_inputs=True)

    @contextmanager
    def at(self, node: Node) -> Iterator[None]:
        """New nodes stand before `node` and inherit its provenance."""
        before = self._like
        self._like = node
        with self.graph.inserting_before(node):
            yield
        self._like = before

    def call(self, target: Callable[..., Any], *args: Any, **kwargs: Any) -> Node:
        """A typed call_function node at the insertion point."""
        node = self.graph.call_function(target, args, kwargs)
        self._describe(node)
        like = f" for {where(self._like)}" if self._like else ""
        node.meta["val"] = self._typed(target, args, kwargs, f"made {target}{like} with operands it does not take")
        return node

    def edit(
        self,
        node: Node,
        *,
        target: Callable[..., Any] | str | None = None,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        """Gives a node another operator, other arguments or other keywords, in its place; what is None stays.

        The node has the type that follows. Raises PassError, and leaves the node as it was, where the operator does not
        take these arguments. What reads the node keeps its own type: see `retype`.
        """
        wanted = (
            node.target if target is None else target,
            node.args if args is None else tuple(args),
            dict(node.kwargs if kwargs is None else kwargs),
        )
        if node.op == "call_function":
            value = self._typed(*wanted, f"gave {where(node)} arguments that {wanted[0]} does not take")
            self._mark(node, value)
            node.meta["val"] = value
        if wanted != (node.target, node.args, node.kwargs):
            node.meta[CHANGED_BY] = self.made_by
            node.target, node.args, node.kwargs = wanted

    def retype(self, node: Node) -> None:
        """Gives a node the type that follows from operands whose types have changed. Raises PassError where it does not
        take them."""
        self.edit(node)

    def parameter(self, name: str, value: torch.Tensor, trainable: bool = True) -> Node:
        """A get_attr node for a weight or buffer `name`, which must be new. What training must not touch (masks, tables
        of positions) is a buffer: integers, and floats with `trainable=False`."""
        prefix, _, leaf = name.rpartition(".")
        owner: torch.nn.Module = self.module
        for part in prefix.split(".") if prefix else ():
            child = getattr(owner, part, None)
            if child is None:
                child = torch.nn.Module()
                owner.add_module(part, child)
            owner = child
        if hasattr(owner, leaf):
            raise PassError(f"pass {self.made_by!r} wants to add {name!r}, which exists; give it another name")
        if value.is_floating_point() and trainable:
            owner.register_parameter(leaf, torch.nn.Parameter(value, requires_grad=False))
        else:
            owner.register_buffer(leaf, value)
        node = self.graph.get_attr(name)
        self._describe(node)
        node.meta["val"] = self.fake_mode.from_tensor(value, static_shapes=True)
        return node

    def unique_name(self, name: str) -> str:
        """`name`, or name_1, name_2 … if it is taken."""
        taken = {str(n.target) for n in self.graph.nodes if n.op == "get_attr"}
        candidate, i = name, 0
        while candidate in taken:
            i += 1
            candidate = f"{name}_{i}"
        return candidate

    def replace(self, old: Node, new: Node) -> None:
        """`new` takes every use of `old`; shapes and dtypes must agree. `old` is erased."""
        a, b = old.meta.get("val"), new.meta.get("val")
        if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
            if not same_shape(tuple(a.shape), tuple(b.shape)):
                raise PassError(
                    f"pass {self.made_by!r} replaces {where(old)} of shape {list(a.shape)} by {new.target} "
                    f"of shape {list(b.shape)}; both must be equal"
                )
            if a.dtype != b.dtype:
                raise PassError(
                    f"pass {self.made_by!r} replaces {where(old)} of dtype {a.dtype} by {new.target} "
                    f"of dtype {b.dtype}; both must be equal"
                )
        old.replace_all_uses_with(new)
        self.graph.erase_node(old)

    def finish(self) -> GraphModule:
        """Erases what nobody uses, checks the graph, recompiles."""
        for node in reversed(list(self.graph.nodes)):
            if node.op in ("call_function", "get_attr") and not node.users and _pure(node):
                self.graph.erase_node(node)
        self.graph.lint()
        self.module.recompile()
        return self.module

    def _typed(self, target: Any, args: Any, kwargs: Any, otherwise: str) -> Any:
        """What an operator gives for these arguments."""
        try:
            with self.fake_mode:
                return target(*map_arg(args, lambda n: n.meta["val"]), **map_arg(kwargs, lambda n: n.meta["val"]))
        except Exception as error:
            raise PassError(f"pass {self.made_by!r} {otherwise}: {error}") from error

    def _mark(self, node: Node, value: Any) -> None:
        """A node whose type changes has changed, though its arguments may not have."""
        old = node.meta.get("val")
        if isinstance(old, torch.Tensor) and isinstance(value, torch.Tensor):
            same = old.dtype == value.dtype and same_shape(tuple(old.shape), tuple(value.shape))
            if not same:
                node.meta[CHANGED_BY] = self.made_by

    def _describe(self, node: Node) -> None:
        node.meta["made_by"] = self.made_by
        if self._like is not None:
            for key in _PROVENANCE:
                if key in self._like.meta:
                    node.meta[key] = self._like.meta[key]


def _pure(node: Node) -> bool:
    """Node.is_impure() also counts operators that may draw random numbers, such as SDPA with its unused dropout."""
    schema = getattr(node.target, "_schema", None)
    return node.op == "get_attr" or (not schema.is_mutable if schema is not None else not node.is_impure())
