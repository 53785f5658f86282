"""What stays makes up for what goes: the mean of removed inputs into the bias, or their regression into the weights."""

from __future__ import annotations

import torch
from torch.fx import Node

from vitc.graph import Rewriter, constant
from vitc.graph.nodes import argument, operand
from vitc.graph.program import Program
from vitc.passes.pruning.cut.names import take_names
from vitc.passes.pruning.find.layers import is_depthwise
from vitc.passes.pruning.find.tags import NOBODY
from vitc.passes.pruning.score.criteria import Compensation
from vitc.passes.pruning.score.facts import Facts
from vitc.passes.pruning.score.readers import reads_rows
from vitc.passes.pruning.score.removal import regression


def compensate(program: Program, facts: Facts, removed: torch.Tensor, how: Compensation) -> int:
    """Changes the weights and biases of the layers that read `removed` features, in place; returns how many layers.

    'mean' (VBP): b + W_P μ_P. 'least-squares' (OBS): also W_S + W_P C_PS C_SS⁻¹, with the bias to match. Layers that
    read through a norm, or with a kernel larger than 1, are left as they are.
    """
    if how == "none":
        return 0
    rewriter = Rewriter(program.module, "prune")
    renamed: dict[str, list[str]] = {}
    changed = 0
    for reader, feature in facts.flow.columns.items():
        gone = removed[feature.clamp(0).long()] & (feature != NOBODY)
        direct = not bool(
            facts.flow.normed[feature.clamp(0).long()].any() | facts.flow.summed[feature.clamp(0).long()].any()
        )
        if not bool(gone.any()) or bool(gone.all()) or is_depthwise(reader) or not reads_rows(reader) or not direct:
            continue
        weight = constant(program.module, operand(reader, 1))
        matrix = weight.flatten(1).clone()
        if how == "mean":
            shift = matrix[:, gone] @ facts.mean[feature[gone].long()].float()
        else:
            seen = facts.reader(reader)
            onto, mean = regression(seen.covariance, gone), seen.mean
            shift = matrix[:, gone] @ (mean[gone] - onto @ mean[~gone])
            matrix[:, ~gone] += matrix[:, gone] @ onto
        for old, new in _write(rewriter, reader, matrix.reshape(weight.shape), shift):
            renamed.setdefault(old, []).append(new)
        changed += 1
    rewriter.finish()
    take_names(rewriter, renamed)
    return changed


def _write(rewriter: Rewriter, reader: Node, weight: torch.Tensor, shift: torch.Tensor) -> list[tuple[str, str]]:
    """Gives the reader its weight and bias; returns (old name, new name) of each."""
    old = argument(reader, 2)
    names = [str(operand(reader, 1).target)]
    names.append(str(old.target) if isinstance(old, Node) else names[0].removesuffix("weight") + "bias")
    bias = constant(rewriter.module, old) + shift if isinstance(old, Node) else shift
    new = [rewriter.unique_name(f"{name}_updated") for name in names]
    with rewriter.at(reader):
        made = [rewriter.parameter(n, v.contiguous()) for n, v in zip(new, (weight, bias), strict=True)]
    rewriter.edit(reader, args=(reader.args[0], *made, *reader.args[3:]))
    return list(zip(names, new, strict=True))
