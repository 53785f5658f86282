"""A program with units masked out instead of removed: the reference for pruning."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Interpreter, Node
from torch.utils._pytree import tree_leaves

from vitc.graph.program import Program
from vitc.passes.pruning.find.groups import Groups
from vitc.passes.pruning.find.tags import NOBODY

aten = torch.ops.aten
_NORMS = (aten.layer_norm.default, aten.group_norm.default)


def masked(program: Program, groups: Groups, chosen: dict[str, list[int]]) -> list[torch.Tensor]:
    """The outputs for the example inputs where every activation that belongs to a chosen unit is zero, and norms take
    their statistics over the rest."""
    gone = torch.zeros(groups.flow.count, dtype=torch.bool)
    for group in groups.groups:
        gone[group.units[torch.tensor(chosen.get(group.name, []), dtype=torch.long)].flatten()] = True
    with torch.no_grad():
        out = _Masking(program.module, groups, gone).run(*program.example_inputs, enable_io_processing=False)
    return [t for t in tree_leaves(out) if isinstance(t, torch.Tensor)]


class _Masking(Interpreter):
    def __init__(self, module: torch.fx.GraphModule, groups: Groups, gone: torch.Tensor) -> None:
        super().__init__(module)
        self.tags, self.gone = groups.flow.tags, gone

    def run_node(self, n: Node) -> Any:
        tags = self.tags.get(n)
        if not isinstance(tags, torch.Tensor):
            return super().run_node(n)
        keep = ~self.gone[tags.clamp(0).long()] | (tags == NOBODY)
        if n.target in _NORMS and not bool(keep.all()):
            args = self.map_nodes_to_values(n.args, n)
            return _masked_norm(n, args, keep) * keep
        value = super().run_node(n)
        return torch.where(keep, value, torch.zeros_like(value))  # 0/0 where all of a norm is masked


def _masked_norm(n: Node, args: Any, keep: torch.Tensor) -> torch.Tensor:
    x, weight, bias = args[0], args[2] if len(args) > 2 else None, args[3] if len(args) > 3 else None
    dims = (
        tuple(range(1, x.ndim)) if n.target is aten.group_norm.default else tuple(range(x.ndim - len(args[1]), x.ndim))
    )
    eps = args[4] if len(args) > 4 else 1e-5
    count = keep.sum(dims, keepdim=True)
    mean = (x * keep).sum(dims, keepdim=True) / count
    var = (((x - mean) * keep) ** 2).sum(dims, keepdim=True) / count
    out = (x - mean) / torch.sqrt(var + eps)
    shape = [-1] + [1] * (x.ndim - 2) if n.target is aten.group_norm.default else [-1]
    out = out if weight is None else out * weight.reshape(shape)
    return out if bias is None else out + bias.reshape(shape)
