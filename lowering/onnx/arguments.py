"""Which of an operator's arguments a handler reads.

A handler's parameters are named as the operator's schema names its arguments (`self` and `input` are `x`): what it
names it reads, and a call that gives anything but the default for another argument is refused. So no argument is
passed over in silence, and a test holds every argument of every handled overload to "read" or "refused".
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from vitc.errors import LoweringError
from vitc.graph.nodes import where

#: Where and how a tensor lies in memory, not what is in it.
NO_VALUE = frozenset({"layout", "device", "pin_memory", "memory_format", "non_blocking"})
_RENAMED = {"self": "x", "input": "x", "a": "x"}  # `a` in prims


class Refused(LoweringError):
    """A call that a handler does not take. torch's own decomposition of the operator is tried before it is raised."""


@dataclass(frozen=True)
class Handler:
    """What emits an operator. `settled`: arguments whose effect the result's own dtype and shape already show. `whole`:
    it reads the node by a record of its own."""

    function: Callable[..., Any]
    settled: frozenset[str]
    whole: bool = False

    @property
    def reads(self) -> frozenset[str]:
        """The arguments it reads, by the schema's names or by `x`."""
        return frozenset(list(inspect.signature(self.function).parameters)[2:])

    def arguments(self, node: Node) -> Mapping[str, Any] | None:
        """The node's arguments by the handler's parameters; None for what is no ATen operator. Raises Refused for one
        that is given and not read."""
        if not isinstance(node.target, torch._ops.OpOverload):
            return None
        if self.whole:
            return {}
        values: dict[str, Any] = {}
        for at, argument in enumerate(node.target._schema.arguments):
            given = at < len(node.args) and not argument.kwarg_only
            if not given and argument.name not in node.kwargs and not argument.has_default_value():
                raise Refused(f"{where(node)} is called without {argument.name!r}")
            default = argument.default_value if argument.has_default_value() else None
            value = node.args[at] if given else node.kwargs.get(argument.name, default)
            name = _RENAMED.get(argument.name, argument.name)
            if name in self.reads:
                values[name] = value
            elif not self.ignores(argument.name) and not _equal(value, default):
                raise Refused(f"{where(node)} has {argument.name}={value}, which has no ONNX form in vitc")
        return values

    def ignores(self, name: str) -> bool:
        """Whether an argument that is not read may have any value."""
        return name in NO_VALUE or name in self.settled


def _equal(value: Any, default: Any) -> bool:
    if isinstance(value, Node) or (isinstance(value, (list, tuple)) and any(isinstance(v, Node) for v in value)):
        return False
    if isinstance(value, (list, tuple)) and isinstance(default, (list, tuple)):
        return list(value) == list(default)
    return type(value) is type(default) and bool(value == default) if isinstance(value, bool) else value == default
