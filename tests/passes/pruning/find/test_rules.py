"""What each operator does to the features that reach it, and why some are kept."""

from __future__ import annotations

import re

import pytest
import torch
from small_vits import program_of
from torch import nn

from vitc.passes.pruning.find.grouping import find_groups
from vitc.passes.pruning.find.groups import Groups


def _groups(model: nn.Module, size: tuple[int, ...] = (3, 8, 8)) -> Groups:
    return find_groups(program_of(model, size))


def _summary(groups: Groups) -> dict[str, tuple[int, int]]:
    return {g.name: tuple(g.units.shape) for g in groups.groups}  # type: ignore[misc]


class _Then(nn.Module):
    """linear → what is given → linear."""

    def __init__(self, between: nn.Module, out: int = 8) -> None:
        super().__init__()
        self.one, self.between, self.two = nn.Linear(8, 8), between, nn.Linear(out, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(self.between(self.one(x)))


class _Fn(nn.Module):
    def __init__(self, fn: object) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fn(x)  # type: ignore[operator, no-any-return]


@pytest.mark.parametrize(
    ("between", "reason"),
    [
        (_Fn(lambda x: x.softmax(-1)), "they reach node softmax (aten.softmax.int, in between), behind which"),
        (_Fn(lambda x: x.cumsum(-1)), "they reach node cumsum (aten.cumsum.default, in between), behind which"),
        (_Fn(lambda x: x * x.mean(-1, keepdim=True)), "they reach node mean (aten.mean.dim, in between), behind which"),
        (_Fn(lambda x: x @ torch.nn.functional.gelu(x).transpose(-1, -2) @ x), None),
        (_Fn(lambda x: nn.functional.group_norm(x.transpose(1, 2), 2).transpose(1, 2)), "they reach node group_norm"),
    ],
)
def test_what_mixes_features_keeps_them(between: nn.Module, reason: str | None) -> None:
    groups = _groups(_Then(between), (5, 8))
    if reason is None:  # self-attention without projections: queries, keys and values are one
        assert _summary(groups) == {}
        return
    first = groups.refused[0]
    assert (first.path, first.count) == ("one", 8)
    assert first.reason.startswith(reason)


def test_queries_that_share_keys_inside_attention_keep_them() -> None:
    def grouped(x: torch.Tensor) -> torch.Tensor:
        heads = x[:, None].expand(-1, 4, -1, -1)
        y = nn.functional.scaled_dot_product_attention(heads, heads[:, :2], heads[:, :2], enable_gqa=True)
        return y[:, 0]

    reasons = {r.path: r.reason for r in _groups(_Then(_Fn(grouped)), (5, 8)).refused}
    assert reasons["one"].startswith("they reach node repeat_interleave")  # keys are written out, one for each query


class _Conv(nn.Module):
    def __init__(self, groups: int) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=groups), nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(torch.relu(self.b(torch.relu(self.a(x)))))


def test_depthwise_convolutions_are_followed_and_grouped_ones_are_not() -> None:
    assert _summary(_groups(_Conv(8))) == {"a:mlp": (8, 1)}
    grouped = _groups(_Conv(2))
    assert _summary(grouped) == {}
    assert {
        r.path for r in grouped.refused if r.reason.endswith("(aten.conv2d.default, in b) is a grouped convolution")
    } == {"a", "b"}


class _ComputedWeight(nn.Module):
    """A linear whose weight is what another linear makes of the first image."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(self.one(x), self.two(x[0]))


def test_a_computed_weight_keeps_its_features() -> None:
    reasons = {r.path: r.reason for r in _groups(_ComputedWeight(), (5, 8)).refused}
    assert re.fullmatch(r"they reach node linear_\d \(aten.linear.default\), whose weight is computed", reasons["one"])
    assert re.fullmatch(r"they are the weight of node linear_\d \(aten.linear.default\)", reasons["two"])
