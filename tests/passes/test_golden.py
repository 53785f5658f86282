"""The graph after each pass of the default pipelines, as text, compared whole with the files in golden/.

After a wanted change: `pytest tests/passes/test_golden.py --regenerate-golden`, and read the diff.
"""

from __future__ import annotations

import re
from pathlib import Path

import attention_models as models
import pytest
import torch
from torch import Tensor, nn

import vitc
from vitc.pipeline.default import CANONICAL

GOLDEN = Path(__file__).parent / "golden"


class SmallViT(nn.Module):
    """Everything a ViT has, once: patches, class token, a position table, pre-norm blocks with LayerScale, dropout, a
    head."""

    def __init__(self, attention: type[nn.Module]) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, models.WIDTH, 4, 4)
        self.cls = nn.Parameter(torch.randn(1, 1, models.WIDTH))
        self.position = nn.Parameter(torch.randn(1, models.TOKENS, models.WIDTH))
        self.norm1, self.norm2, self.norm = (nn.LayerNorm(models.WIDTH) for _ in range(3))
        self.attention = attention()
        self.gamma = nn.Parameter(torch.rand(models.WIDTH))
        self.mlp = nn.Sequential(nn.Linear(models.WIDTH, 32), nn.GELU(), nn.Dropout(0.1), nn.Linear(32, models.WIDTH))
        self.head = nn.Linear(models.WIDTH, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.position
        x = x + self.gamma * self.attention(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return self.head(self.norm(x)[:, 0])


#: No pass whose choices depend on the last digit of a sum: other processors add in another order.
INT8 = ",".join((*CANONICAL, "tile-attention", "quantize-int8{calibrator=minmax}", "to-fp16"))
CASES = {
    "packed-orin-int8": (models.Packed, "orin", INT8),
    "separate-orin": (models.Separate, "orin", None),
    "written-out-cpu": (models.WrittenOut, "cpu", None),
    "per-head-cpu": (models.PerHead, "cpu", None),
    "sequence-first-cpu": (models.SequenceFirst, "cpu", None),
}


@pytest.mark.parametrize("name", CASES)
def test_the_graph_after_each_pass(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    attention, target, pipeline = CASES[name]
    images = torch.randn(4, 3, 8, 8)
    vitc.plan(
        SmallViT(attention).eval(), target, example_inputs=images, calibration=images if pipeline else None,
        pipeline=pipeline,
        dump=tmp_path,
    )  # fmt: skip
    made = {path.name: _without_scales(path.read_text(encoding="utf-8")) for path in sorted(tmp_path.iterdir())}
    folder = GOLDEN / name
    if request.config.getoption("--regenerate-golden"):
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        for file, text in made.items():
            (folder / file).write_text(text, encoding="utf-8")
    golden = {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.iterdir())}
    assert list(made) == list(golden)
    for file, text in made.items():
        assert text == golden[file], file


def _without_scales(text: str) -> str:
    """The scales of an INT8 attention's border are measured."""
    return re.sub(r"int8, \[[^]]*\], [0-9.e-]+,", "int8, [scales], scale,", text)
