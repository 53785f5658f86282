"""Stage specs: each thing a stage forbids is refused, with the node, the reason and the remedy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import vitc
from vitc.errors import StageError
from vitc.frontend.capture import capture
from vitc.graph.program import Program
from vitc.pipeline import Pass, parse_pipeline, run_pipeline

aten, ops = torch.ops.aten, torch.ops.vitc


class Model(nn.Module):
    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function
        self.inner = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


@dataclass(frozen=True)
class Claims(Pass):
    """Says the program is at a stage, and changes nothing."""

    name = "claims"

    def run(self, program: Program) -> Program:
        return program


@dataclass(frozen=True)
class ClaimsTiled(Claims):
    name = "claims-tiled"
    gives = "tiled"


@dataclass(frozen=True)
class ClaimsQuantized(Claims):
    name = "claims-quantized"
    gives = "quantized"


def _captured(function: Callable[..., Tensor]) -> Program:
    return capture(Model(function).eval(), vitc.load_target("cpu"), torch.randn(2, 4))


def _integers(m: Model, x: Tensor) -> Tensor:
    return ops.dequantize(ops.quantize(x, m.inner.bias[0], 0), m.inner.bias[0], 0)


@pytest.mark.parametrize(
    ("function", "passes", "message"),
    [
        (
            lambda m, x: m.drop(m.inner(x)) + x.clone(),
            "canonical",
            r"aten.clone.*identity in inference; 'drop-noops' removes it",
        ),
        (lambda m, x: m.norm(x), "canonical", r"in norm\) folds into its neighbour; 'fold-batch-norm'"),
        (
            lambda m, x: aten.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None]),
            (ClaimsTiled(),),
            r"not legal at stage 'tiled':\n.*must be vitc.attention; 'tile-attention' does it",
        ),
        (_integers, (ClaimsTiled(),), "has dtype torch.int8, which stage 'tiled' does not know"),
        (
            lambda m, x: _integers(m, x) + _integers(m, 2 * x),
            (ClaimsQuantized(),),
            "adds two dequantized tensors; residual adds stay in floating point",
        ),
    ],
    ids=["clone", "batch norm", "attention not tiled", "integers too early", "quantized residual"],
)
def test_what_a_stage_forbids(function: Callable[..., Tensor], passes: str | tuple[Pass, ...], message: str) -> None:
    chosen = parse_pipeline(passes) if isinstance(passes, str) else passes
    with pytest.raises(StageError, match=message):
        run_pipeline(_captured(function), chosen)


def test_ten_are_listed_and_the_rest_counted() -> None:
    def copies(m: Model, x: Tensor) -> Tensor:
        return torch.stack([(x * i).clone() for i in range(13)]).sum(0)

    with pytest.raises(
        StageError, match=r"after 'canonical' the graph is not legal at stage 'canonical'(.|\n)*… and 3 more"
    ):
        run_pipeline(_captured(copies), parse_pipeline("canonical"))


def test_a_dequantized_branch_on_a_floating_residual_is_legal() -> None:
    run_pipeline(_captured(lambda m, x: x + _integers(m, x)), (ClaimsQuantized(),))
