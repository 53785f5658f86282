"""What is known about features, and what is said where it is not."""

from __future__ import annotations

import pytest
import torch
from small_vits import Shape, SmallViT, program_of

import vitc
from vitc.errors import PassError
from vitc.passes.pruning.find.grouping import find_groups
from vitc.passes.pruning.score.facts import Facts, Layer


def test_activations_that_were_not_asked_for_are_refused() -> None:
    program = program_of(SmallViT(Shape(), depth=1))
    with pytest.raises(
        PassError, match=r"reads activations and does not say so; give its class needs = \('activations',\)"
    ):
        Facts(program, find_groups(program), ()).variance  # noqa: B018


def test_a_criterion_that_compensates_needs_data() -> None:
    @vitc.register_criterion
    class Compensating(vitc.Criterion):
        """Scores by weights alone, but makes up for what goes."""

        name = "compensating"
        compensation = "mean"

        def score(self, layer: Layer) -> torch.Tensor:
            return layer.weight.abs().sum(1)

    model = SmallViT(Shape(), depth=1).eval()
    with pytest.raises(PassError, match="pruning needs activations and has no data; pass data=batches to vitc.prune"):
        vitc.prune(model, 0.2, criterion="compensating", example_inputs=torch.randn(2, 3, 8, 8))
