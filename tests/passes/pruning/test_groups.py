"""Which groups are found, and why others are not."""

from __future__ import annotations

import pytest
import torch
from small_vits import Shape, SmallViT, program_of
from torch import nn

from vitc.errors import PassError
from vitc.passes.pruning.grouping import find_groups
from vitc.passes.pruning.groups import Groups
from vitc.passes.pruning.selection import features_of
from vitc.passes.pruning.shrink import shrink


def _groups(model: nn.Module, size: tuple[int, ...] = (3, 8, 8)) -> Groups:
    return find_groups(program_of(model, size))


def _summary(groups: Groups) -> dict[str, tuple[int, int]]:
    return {g.name: tuple(g.units.shape) for g in groups.groups}  # type: ignore[misc]


def test_a_vit() -> None:
    found = _summary(_groups(SmallViT(Shape(heads=2, head_dim=4, gated=True, registers=1), depth=2)))
    per_block = {"attn:qk": (8, 2), "attn:v": (8, 1), "attn:heads": (2, 13), "mlp.fc1:mlp": (24, 2)}
    want = {f"blocks.{i}.{name}": shape for i in range(2) for name, shape in per_block.items()}
    assert found == want | {"patch:width": (8, 5), "blocks.0:blocks": (2, 24 + 2 + 8 + 48 + 8)}


def test_tied_weights_are_one_group() -> None:
    found = _summary(_groups(SmallViT(Shape(tied=True), depth=2)))
    assert found["blocks.0.mlp.fc1:mlp"] == (24, 2)
    assert "blocks.1.mlp.fc1:mlp" not in found


def test_text_names_groups_and_refusals() -> None:
    text = _groups(SmallViT(Shape(), depth=1)).text()
    assert "mlp    blocks.0.mlp.fc1:mlp" in text
    assert "24 units of 1 → blocks.0.mlp.fc2" in text
    assert "read through a norm" in text  # the width
    assert "kept   head" in text
    assert "5 features: the model returns them" in text


def test_why_two_layers_are_tied() -> None:
    groups = _groups(SmallViT(Shape(), depth=1))
    (place,) = groups.why_tied("patch", "blocks.0.attn.proj")
    assert "aten.add.Tensor, in blocks.0" in place
    assert groups.why_tied("patch", "head") == []
    assert groups.why_tied("patch", "nowhere") == []


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
    assert {r.path for r in grouped.refused if r.reason.endswith("(aten.conv2d.default, in b) is a grouped convolution")} == {"a", "b"}


class _Weightless(nn.Module):
    """A linear whose weight is computed by another linear."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(self.one(x), self.two(torch.ones(8, 8)) + self.two(x).sum())


def test_a_computed_weight_keeps_its_features() -> None:
    reasons = " ".join(r.reason for r in _groups(_Weightless(), (5, 8)).refused)
    assert "whose weight is computed" in reasons


class _SharedKeys(nn.Module):
    """Two heads of queries over one head of keys and values (multi-query attention)."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv, self.proj = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, _ = x.shape
        q = self.q(x).view(b, n, 2, 4).transpose(1, 2)
        k, v = self.kv(x).chunk(2, -1)
        y = (q @ k[:, None].transpose(-1, -2)).softmax(-1) @ v[:, None]
        return self.proj(y.transpose(1, 2).reshape(b, n, 8))


def test_heads_that_share_keys_are_not_cut_apart() -> None:
    assert not any(g.kind == "heads" for g in _groups(_SharedKeys(), (5, 8)).groups)


def test_another_number_of_dimensions_in_each_head_is_refused() -> None:
    program = program_of(SmallViT(Shape(), depth=1))
    groups = find_groups(program)
    with pytest.raises(PassError, match=r"blocks.0.attn:qk: the heads would keep \[3, 4\] dimensions; all must keep as many"):
        features_of(groups, {"blocks.0.attn:qk": [0]})


def test_what_is_no_rectangle_is_refused_with_the_node() -> None:
    program = program_of(SmallViT(Shape(), depth=1))
    groups = find_groups(program)
    removed, content = features_of(groups, {"blocks.0.attn:v": [0, 4]})  # q, k and v are one view [3, H, D]: not unpacked
    with pytest.raises(PassError, match=r"what would stay is not a rectangle; keep=\['blocks.0.attn'\] leaves it alone"):
        shrink(program, groups.flow, removed, content)
