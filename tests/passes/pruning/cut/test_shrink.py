"""What a graph cannot be without is refused, with the layers to keep."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from small_vits import CPU, Shape, SmallViT, program_of
from torch import nn

import vitc
from vitc.errors import InternalError, PassError
from vitc.passes.pruning.choose.selection import features_of
from vitc.passes.pruning.cut.shrink import shrink
from vitc.passes.pruning.find.grouping import find_groups


class _Between(nn.Module):
    """linear → what is given → linear, then an MLP."""

    def __init__(self, between: Callable[[torch.Tensor], torch.Tensor], width: int = 8) -> None:
        super().__init__()
        self.one, self.two, self.between = nn.Linear(8, 8), nn.Linear(width, 8), between
        self.fc1, self.fc2 = nn.Linear(8, 32), nn.Linear(32, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(torch.relu(self.fc1(self.two(self.between(self.one(x))))))


def _shuffle(x: torch.Tensor) -> torch.Tensor:
    """[n, t, 2·4] → [n, t, 4·2], as a channel shuffle does."""
    return x.reshape(x.shape[0], 5, 2, 4).transpose(2, 3).reshape(x.shape[0], 5, 8)


@pytest.mark.parametrize(
    ("between", "width", "message"),
    [
        (
            lambda x: x.roll(1, -1),
            8,
            r"node roll \(aten.roll.default\) goes by position along a dimension that would be pruned",
        ),
        (
            lambda x: x.flip(-1),
            8,
            r"node flip \(aten.flip.default\) goes by position along a dimension that would be pruned",
        ),
        (lambda x: x[..., torch.arange(7, -1, -1)], 8, r"node index \(aten.index.Tensor\) goes by position along .*"),
        (
            lambda x: x[..., ::2],
            4,
            r"node slice_\d \(aten.slice.Tensor\) takes each entry number 2 of a dimension that would be pruned",
        ),
    ],
)
def test_refusals_name_what_to_keep(between: Callable[[torch.Tensor], torch.Tensor], width: int, message: str) -> None:
    torch.manual_seed(0)
    model, budget = _Between(between, width).eval(), {"params": 0.3, "quantum": 1}
    options = {"kinds": ("mlp",), "target": CPU, "example_inputs": torch.randn(2, 5, 8)}
    with torch.no_grad():
        model.one.weight[2] *= 0.01  # goes first, from the middle
    with pytest.raises(PassError, match=rf"{message}; keep=\['one'\] leaves its features alone"):
        vitc.prune(model, budget, **options)  # type: ignore[arg-type]
    assert vitc.prune(model, budget, keep=["one"], **options).plan.steps  # type: ignore[arg-type]


def test_a_group_that_a_graph_cannot_go_on_without_is_left_alone_and_says_so() -> None:
    torch.manual_seed(0)
    model = _Between(_shuffle, 8).eval()
    with torch.no_grad():
        model.one.weight[2] *= 0.01  # would go first, from the middle
    pruned = vitc.prune(
        model, {"params": 0.3, "quantum": 1}, kinds=("mlp",), target=CPU, example_inputs=torch.randn(2, 5, 8)
    )
    (alone,) = [cut for step in pruned.plan.steps for cut in step if cut.group.startswith("one")]
    assert alone.removed == ()
    assert alone.reason == "node view (aten.reshape.default) would not be left with a rectangle of features"


def test_packed_dimensions_of_heads_are_refused_with_their_layer() -> None:
    program = program_of(SmallViT(Shape(), depth=1))  # q, k and v are one view [3, H, D]: not unpacked
    groups = find_groups(program)
    removed, content = features_of(groups, {"blocks.0.attn:v": [0, 4]})
    with pytest.raises(
        PassError, match=r"in blocks.0.attn\) would not be left with a rectangle .*keep=\['blocks.0.attn.qkv'\]"
    ):
        shrink(program, groups.flow, removed, content)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (None, r"node view \(aten.reshape.default\) does not fit its pruned operands"),
        (
            torch.arange(10)[:, None].expand(10, 8),
            r"node view \(aten.reshape.default\) has a dynamic dimension of which 9 of 10",
        ),
    ],
)
def test_features_that_were_lost_on_the_way_are_our_fault(wrong: torch.Tensor | None, message: str) -> None:
    program = program_of(_Between(lambda x: torch.relu(x.reshape(x.shape[0] * 5, 8)).reshape(x.shape[0], 5, 8)), (5, 8))
    flow = find_groups(program).flow
    view = next(n for n in program.graph.nodes if n.target is torch.ops.aten.reshape.default)
    if wrong is None:
        del flow.tags[view]
    else:
        flow.tags[view] = wrong
    removed = torch.zeros(flow.count, dtype=torch.bool)
    removed[0] = True
    with pytest.raises(InternalError, match=message):
        shrink(program, flow, removed)
