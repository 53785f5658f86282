"""The linear algebra of removing inputs of a linear: in which order, and what the weights that stay become.

A reader computes y = W x + b. Without the inputs P, the best replacement for x_P is its regression on what stays,
x_P ≈ μ_P + C_PS C_SS⁻¹ (x_S − μ_S), with the covariance C of the inputs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.fx import Node

from vitc.graph import constant
from vitc.graph.nodes import operand

if TYPE_CHECKING:
    from vitc.passes.pruning.find.groups import Group
    from vitc.passes.pruning.score.facts import Facts

#: Of the mean variance, added to the diagonal: directions the data does not show are not invented.
_DAMPING = 0.01
#: In how many rounds all units of a group are eliminated.
_ROUNDS = 64
#: Each score is at least so many times the one before.
_ASCENT = 1 + 1e-6


def damped(covariance: torch.Tensor) -> torch.Tensor:
    """The covariance with a small multiple of the identity, so that it can be inverted."""
    diagonal = covariance.diagonal()
    return covariance + torch.diag_embed(torch.full_like(diagonal, float(_DAMPING * diagonal.mean().clamp(min=1e-12))))


def regression(covariance: torch.Tensor, gone: torch.Tensor) -> torch.Tensor:
    """[|P|, |S|]: the coefficients that predict the inputs marked in `gone` from the others."""
    c = damped(covariance)
    stays = ~gone
    solved: torch.Tensor = torch.linalg.solve(c[stays][:, stays], c[stays][:, gone])
    return solved.T


def columns_of(facts: Facts, group: Group, reader: Node) -> torch.Tensor:
    """[units, columns]: the input columns of the reader that read each unit, −1 where a unit has fewer than others."""
    feature = facts.flow.columns[reader]
    place = {f: i for i, f in enumerate(feature.tolist())}
    rows = [[place[f] for f in unit if f in place] for unit in group.units.tolist()]
    width = max(map(len, rows))
    return torch.tensor([row + [-1] * (width - len(row)) for row in rows])


def removal_order(facts: Facts, group: Group, reader: Node) -> torch.Tensor:
    """[units]: the squared error that each unit adds when it is eliminated, or a little more than the score before
    where that is less: the order of elimination is the order of the scores. The error is that of the reader's outputs,
    each counted by its gain, so of the model's: comparable between readers.

    With the inverse H⁻¹ of the covariance of what is still there, eliminating the inputs P costs tr(W_P (H⁻¹_PP)⁻¹
    W_Pᵀ), and the inverse of the rest is H⁻¹_SS − H⁻¹_SP (H⁻¹_PP)⁻¹ H⁻¹_PS.
    """
    seen = facts.reader(reader)
    weight = constant(facts.module, operand(reader, 1)).flatten(1).float() * seen.gain.sqrt()[:, None]
    columns = columns_of(facts, group, reader)
    inverse = torch.linalg.inv(damped(seen.covariance))
    scores = torch.zeros(len(group))
    left = torch.arange(len(group))
    score = 0.0
    while len(left):
        errors = _errors(inverse, weight, columns[left])
        order = errors.argsort()[: max(1, -(-len(group) // _ROUNDS))]
        for i in order.tolist():
            score = max(float(errors[i]), score * _ASCENT)
            scores[left[i]] = score
        gone = columns[left[order]].flatten()
        gone = gone[gone >= 0]
        inverse, weight = _eliminate(inverse, weight, gone)
        stays = torch.ones(len(left), dtype=torch.bool)
        stays[order] = False
        left = left[stays]
    return scores


def alone(facts: Facts, group: Group, reader: Node) -> torch.Tensor:
    """[units]: Var(x_f)·‖W_f‖², with each output's gain: the error that replacing each input by its mean makes through
    a reader that is no matrix (a convolution with a kernel larger than 1)."""
    weight = constant(facts.module, operand(reader, 1)).float()
    weight = (
        (weight.flatten(1) * facts.reader(reader).gain.sqrt()[:, None]).reshape(weight.shape).transpose(0, 1).flatten(1)
    )
    feature = facts.flow.columns[reader].long()
    error = torch.zeros(facts.flow.count).index_add_(
        0, feature, weight.square().sum(1) * facts.variance[feature].float()
    )
    return error[group.units].sum(1)


def _errors(inverse: torch.Tensor, weight: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """tr(W_P (H⁻¹_PP)⁻¹ W_Pᵀ) of each unit, [units]; a column −1 counts as nothing."""
    if columns.shape[1] == 1:
        at = columns[:, 0].clamp(0)
        return weight[:, at].square().sum(0) / inverse.diagonal()[at] * (columns[:, 0] >= 0)
    errors = []
    for row in columns:
        at = row[row >= 0]
        block = inverse[at][:, at]
        errors.append((weight[:, at] * torch.linalg.solve(block, weight[:, at].T).T).sum())
    return torch.stack(errors)


def _eliminate(inverse: torch.Tensor, weight: torch.Tensor, gone: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The inverse covariance and the updated weights without the inputs `gone`; their rows and columns become zero."""
    across = inverse[:, gone]
    solved = torch.linalg.solve(across[gone], across.T)  # (H⁻¹_PP)⁻¹ H⁻¹_P·
    weight = weight - weight[:, gone] @ solved
    inverse = inverse - across @ solved
    inverse[gone] = 0
    inverse[:, gone] = 0
    weight[:, gone] = 0
    inverse[gone, gone] = 1  # never read again, and never divided by zero
    return inverse, weight
