"""Names of weights: a changed weight goes by the name of the one it was made from, so a state dict keeps the model's
keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch.fx import Node

from vitc.graph import Rewriter


def take_names(rewriter: Rewriter, renamed: Mapping[str, Sequence[str]]) -> None:
    """For each old name → new names: the new weight takes the old name, where it is the only one and the old has no
    user left."""
    module = rewriter.module
    used: dict[str, list[Node]] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            used.setdefault(str(node.target), []).append(node)
    for old, new in renamed.items():
        if old in used or len(new) > 1:
            continue
        owner = module.get_submodule(old.rpartition(".")[0])
        leaf, new_leaf = old.rpartition(".")[2], new[0].rpartition(".")[2]
        value = getattr(owner, new_leaf)
        if hasattr(owner, leaf):
            delattr(owner, leaf)
        delattr(owner, new_leaf)
        if isinstance(value, torch.nn.Parameter):
            owner.register_parameter(leaf, value)
        else:
            owner.register_buffer(leaf, value)
        for node in used[new[0]]:
            rewriter.edit(node, target=old)
    module.recompile()
