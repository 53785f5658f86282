"""fold-constants: what depends on weights alone is computed once, now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node
from torch.fx.node import map_arg

from vitc.graph import Rewriter, constant, module_path
from vitc.graph.nodes import is_constant, is_tensor, val
from vitc.graph.program import Program
from vitc.pipeline import Pass, register_pass

#: Creation operators: constants without an operand.
_CREATES = (
    "aten.arange",
    "aten.full",
    "aten.zeros",
    "aten.ones",
    "aten.scalar_tensor",
    "aten.linspace",
    "aten.eye",
    "aten.empty",
)
#: The same with an operand that only gives dtype and device (and the shape, which is known).
_CREATES_LIKE = ("aten.new_", "aten.zeros_like", "aten.ones_like", "aten.full_like", "aten.empty_like")


@register_pass
@dataclass(frozen=True)
class FoldConstants(Pass):
    """Evaluates subgraphs of weights, buffers and literals (position-embedding resizes, relative biases, masks).

    max_bytes: a result larger than this and than its operands is left in the graph, so that an expand is not stored.
    """

    name = "fold-constants"

    max_bytes: int = 64 * 2**20

    def run(self, program: Program) -> Program:
        rewriter = Rewriter(program.module, self.name)
        values: dict[Node, Any] = {}
        weights = dict(program.module.named_parameters(remove_duplicate=False))
        trainable: set[Node] = set()
        for node in program.graph.nodes:
            if is_constant(node):
                values[node] = constant(program.module, node)
                trainable |= {node} if str(node.target) in weights else set()
            elif _foldable(node, values):
                values[node] = _evaluate(node, values)
                trainable |= {node} if trainable & set(node.all_input_nodes) else set()
        for node in [n for n in program.graph.nodes if self._stays(n, values)]:
            name = ".".join(filter(None, (module_path(node), f"folded_{node.name}")))
            with rewriter.at(node):
                folded = rewriter.parameter(
                    rewriter.unique_name(name), values[node].clone().contiguous(), node in trainable
                )
            rewriter.replace(node, folded)
        rewriter.finish()
        return program

    def _stays(self, node: Node, values: dict[Node, Any]) -> bool:
        """Whether a value becomes a weight: something that is computed on inputs reads it."""
        if node not in values or is_constant(node) or not is_tensor(node):
            return False
        return not all(user in values for user in node.users) and not self._too_large(node, values)

    def _too_large(self, node: Node, values: dict[Node, Any]) -> bool:
        size = values[node].numel() * values[node].element_size()
        operands = sum(
            values[n].untyped_storage().nbytes() for n in node.all_input_nodes if isinstance(values[n], torch.Tensor)
        )
        return bool(size > self.max_bytes and size > operands)


def _foldable(node: Node, values: dict[Node, Any]) -> bool:
    if node.op != "call_function" or node.is_impure():
        return False
    if any(isinstance(s, torch.SymInt) for s in getattr(node.meta.get("val"), "shape", ())):
        return False
    operands = node.all_input_nodes
    if not operands:
        return str(node.target).startswith(_CREATES)
    return _creates_like(node) or all(n in values for n in operands)


def _creates_like(node: Node) -> bool:
    return str(node.target).startswith(_CREATES_LIKE) and len(node.all_input_nodes) == 1 and is_tensor(node.args[0])


def _evaluate(node: Node, values: dict[Node, Any]) -> Any:
    if _creates_like(node):
        like: Node = node.args[0]  # type: ignore[assignment]
        shape = tuple(val(node).shape)  # that of *_like; new_* take theirs as an argument
        values = {**values, like: torch.empty(shape, dtype=val(like).dtype)}
    args = map_arg(node.args, values.__getitem__)
    kwargs = map_arg(dict(node.kwargs), values.__getitem__)
    with torch.no_grad():
        return node.target(*args, **kwargs)  # type: ignore[operator]
