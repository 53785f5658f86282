"""Which groups are found, and why others are not."""

from __future__ import annotations

import torch
from small_vits import Shape, SmallViT, program_of
from torch import nn

from vitc.passes.pruning.find.grouping import find_groups
from vitc.passes.pruning.find.groups import Groups


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
    groups = _groups(_SharedKeys(), (5, 8))
    assert not any(g.kind == "heads" for g in groups.groups)
    assert "they are shared by several heads" in {r.reason for r in groups.refused}


class _Unread(nn.Module):
    """linear → six of its eight features → linear."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(8, 8), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(torch.relu(self.one(x))[..., :6])


def test_features_that_nothing_reads_stay() -> None:
    groups = _groups(_Unread(), (5, 8))
    assert _summary(groups) == {"one:mlp": (6, 1)}
    assert [(r.path, r.count) for r in groups.refused if r.reason == "no layer reads them"] == [("one", 2)]


def test_a_model_without_layers_has_no_groups() -> None:
    assert _groups(nn.GELU(), (5, 8)).to_dict() == {"groups": [], "kept": []}
