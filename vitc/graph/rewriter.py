"""The one way a pass changes a graph: every new node is typed, named after the user's module and counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._guards import detect_fake_mode
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from vitc.errors import PassError
from vitc.graph.nodes import same_shape, where

#: What a new node inherits from the node it stands for.
_PROVENANCE = ("nn_module_stack", "stack_trace", "from_node")


class Rewriter:
    """Creates, replaces and erases nodes of one graph on behalf of one pass.

    >>> rewriter = Rewriter(module, "drop-noops")
    >>> with rewriter.at(node):
    ...     new = rewriter.call(torch.ops.aten.relu.default, x)
    >>> rewriter.replace(node, new)

    `created` and `erased` count the changes; the pass manager writes them into the journal.
    """

    def __init__(self, module: GraphModule, made_by: str) -> None:
        self.module = module
        self.graph = module.graph
        self.made_by = made_by
        self.created = 0
        self.erased = 0
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
        fake_args = map_arg(args, lambda n: n.meta["val"])
        fake_kwargs = map_arg(kwargs, lambda n: n.meta["val"])
        try:
            with self.fake_mode:
                node.meta["val"] = target(*fake_args, **fake_kwargs)
        except Exception as error:
            like = f" for {where(self._like)}" if self._like else ""
            raise PassError(
                f"pass {self.made_by!r} made {target}{like} with operands it does not take: {error}"
            ) from error
        return node

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
        self.erase(old)

    def erase(self, node: Node) -> None:
        self.graph.erase_node(node)
        self.erased += 1

    def finish(self) -> GraphModule:
        """Erases what nobody uses, checks the graph, recompiles."""
        for node in reversed(list(self.graph.nodes)):
            if node.op in ("call_function", "get_attr") and not node.users and _pure(node):
                self.graph.erase_node(node)
                if node.op == "call_function":
                    self.erased += 1
        self.graph.lint()
        self.module.recompile()
        return self.module

    def _describe(self, node: Node) -> None:
        self.created += 1
        node.meta["made_by"] = self.made_by
        if self._like is not None:
            for key in _PROVENANCE:
                if key in self._like.meta:
                    node.meta[key] = self._like.meta[key]


def _pure(node: Node) -> bool:
    """Node.is_impure() also counts operators that may draw random numbers, such as SDPA with its unused dropout."""
    schema = getattr(node.target, "_schema", None)
    return node.op == "get_attr" or (not schema.is_mutable if schema is not None else not node.is_impure())
