"""From units to features: what does not fit together is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_vits import CPU, Shape, SmallViT

import vitc
from vitc.errors import PassError


def test_another_number_of_dimensions_in_each_head_is_refused() -> None:
    model, images = SmallViT(Shape(), depth=1).eval(), torch.randn(2, 3, 8, 8)
    plan = vitc.prune(model, 0.05, kinds=("qk",), target=CPU, example_inputs=images).plan
    (cut,) = plan.steps[0]
    edited = replace(plan, steps=((replace(cut, removed=(0,)),),))  # of the first head alone
    with pytest.raises(
        PassError, match=r"blocks.0.attn:qk: the heads would keep \[3, 4\] dimensions; remove as many from each head"
    ):
        vitc.replay_pruning(model, edited, example_inputs=images)
