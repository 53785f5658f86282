"""What each pass does to the smallest model on which it acts, and two whole pipelines, as text.

Compared whole with the files in golden/. After a wanted change: `pytest tests/passes/test_golden.py
--regenerate-golden`, and read the diff.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import attention_models as models
import pytest
import torch
from programs import CANON, captured
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from vitc.calibration.stream import CalibrationStream
from vitc.pipeline import known_passes, parse_pipeline, run_pipeline
from vitc.pipeline.instruments import Change, Diff

GOLDEN = Path(__file__).parent / "golden"
WIDTH, TOKENS = models.WIDTH, models.TOKENS


class Lambda(nn.Module):
    """A module of one expression, with the submodules, parameters and buffers it uses."""

    def __init__(self, function: Callable[..., Tensor], **parts: nn.Module | nn.Parameter | Tensor) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            if isinstance(part, nn.Module | nn.Parameter):
                setattr(self, name, part)
            else:
                self.register_buffer(name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


@dataclass(frozen=True)
class Case:
    """The smallest model on which a pass acts.

    model:  makes it.
    text:   the pass with its options; None: the name alone.
    first:  the pipeline that goes before it.
    shape:  of one image.
    target: a name of vitc.available_targets().
    """

    model: Callable[[], nn.Module]
    text: str | None = None
    first: str = ""
    shape: tuple[int, ...] = (TOKENS, WIDTH)
    target: str = "orin"


def _layer_norm(m: nn.Module, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred * torch.rsqrt((centred * centred).mean(-1, keepdim=True) + 1e-6) * m.weight + m.bias


def _masked(m: nn.Module, x: Tensor) -> Tensor:
    heads = x.unsqueeze(1)
    return scaled_dot_product_attention(heads, heads, heads, attn_mask=m.mask).squeeze(1)


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, 32), nn.GELU(), nn.Linear(32, WIDTH))


def _normed_mlp() -> nn.Module:
    return nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 32), nn.GELU(), nn.Linear(32, WIDTH))


@torch.no_grad()
def _outliers() -> nn.Module:
    """Two channels are large before the linear and small in its weights: what INT8 makes of the others is poor."""
    model = _normed_mlp()
    norm, linear = model[0], model[1]
    norm.weight[:2] *= 80
    linear.weight[:, :2] /= 80
    return model


@torch.no_grad()
def _large_columns() -> nn.Module:
    """The other way round: two columns of the weights are large."""
    model = _normed_mlp()
    norm, linear = model[0], model[1]
    norm.weight[:2] /= 100
    linear.weight[:, :2] *= 100
    return model


def _row(size: int = WIDTH) -> nn.Parameter:
    return nn.Parameter(torch.rand(size) + 0.5)


def _triangle() -> Tensor:
    return torch.ones(1, 1, TOKENS, TOKENS, dtype=torch.bool).tril()


TILED = f"{CANON},tile-attention"
CASES = {
    "drop-noops": Case(lambda: Lambda(lambda m, x: m.drop(x).clone().reshape(x.shape) * 1 + 0.5, drop=nn.Dropout(0.5))),
    "fold-constants": Case(
        lambda: Lambda(lambda m, x: x + m.table.exp().t()[None], table=nn.Parameter(torch.rand(WIDTH, TOKENS)))
    ),
    "fold-batch-norm": Case(lambda: nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6)), shape=(3, 8, 8)),
    "fold-layer-scale": Case(lambda: Lambda(lambda m, x: m.gamma * m.fc(x), gamma=_row(6), fc=nn.Linear(WIDTH, 6))),
    "recognize-gelu": Case(lambda: Lambda(lambda m, x: x * 0.5 * (1.0 + torch.erf(x / 2**0.5)))),
    "recognize-layer-norm": Case(lambda: Lambda(_layer_norm, weight=_row(), bias=_row())),
    "batch-first": Case(
        lambda: Lambda(lambda m, x: m.fc(x.transpose(0, 1)).transpose(0, 1), fc=nn.Linear(WIDTH, 6)),
        first="drop-noops",
    ),
    "fuse-attention": Case(lambda: Lambda(lambda m, x: (x @ x.transpose(-2, -1) * 0.25).softmax(-1) @ x)),
    "attention-4d": Case(lambda: Lambda(lambda m, x: scaled_dot_product_attention(x, x, x))),
    "simplify-mask": Case(lambda: Lambda(_masked, mask=_triangle())),
    "merge-qkv": Case(models.Separate, first="drop-noops"),
    "order-qkv": Case(models.PerHead, first="drop-noops"),
    "canonical": Case(lambda: Lambda(lambda m, x: x.relu())),
    "prune": Case(_mlp, "prune{ratio=0.5,criterion=l1,quantum=8}", CANON),
    "tile-attention": Case(models.Packed, first=CANON),
    "window-attention": Case(
        models.Packed, "window-attention{window=2,overlap=1,global_tokens=1}", TILED, (1 + 6, WIDTH)
    ),
    "smooth-activations": Case(_outliers, first=TILED),
    "tune-int8": Case(_large_columns, "tune-int8{epochs=20,batch_size=2}", TILED),
    # No pass here whose choices depend on the last digit of a sum: other processors add in another order.
    "quantize-int8": Case(_mlp, "quantize-int8{calibrator=minmax,head=true}", TILED),
    "to-fp16": Case(_normed_mlp, first=TILED),
}


@pytest.mark.parametrize("name", CASES)
def test_a_pass_on_the_smallest_model_on_which_it_acts(name: str, request: pytest.FixtureRequest) -> None:
    case = CASES[name]
    change = _changes(case.model(), case.target, ",".join(filter(None, [case.first, case.text or name])), case.shape)[
        -1
    ]
    assert name == "canonical" or change.before != change.after or change.entry.notes
    _compare(GOLDEN / f"{name}.txt", _page(change), request)


def test_every_pass_has_a_case() -> None:
    own = {name for name, cls in known_passes().items() if cls.__module__.startswith("vitc.passes.")}
    assert own == set(CASES)
    assert {path.name for path in GOLDEN.iterdir()} == {f"{name}.txt" for name in (*CASES, *PIPELINES)}


class SmallViT(nn.Module):
    """Everything a ViT has, once: patches, class token, a position table, pre-norm blocks with LayerScale, dropout, a
    head."""

    def __init__(self, attention: type[nn.Module]) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, WIDTH, 4, 4)
        self.cls = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.position = nn.Parameter(torch.randn(1, TOKENS, WIDTH))
        self.norm1, self.norm2, self.norm = (nn.LayerNorm(WIDTH) for _ in range(3))
        self.attention = attention()
        self.gamma = nn.Parameter(torch.rand(WIDTH))
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 32), nn.GELU(), nn.Dropout(0.1), nn.Linear(32, WIDTH))
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.position
        x = x + self.gamma * self.attention(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return self.head(self.norm(x)[:, 0])


PIPELINES = {
    "pipeline-packed-orin-int8": (models.Packed, "orin", f"{TILED},quantize-int8{{calibrator=minmax}},to-fp16"),
    "pipeline-written-out-cpu": (models.WrittenOut, "cpu", TILED),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_a_whole_pipeline(name: str, request: pytest.FixtureRequest) -> None:
    attention, target, text = PIPELINES[name]
    changes = _changes(SmallViT(attention), target, text, (3, 8, 8))
    parts = [f"captured\n\n{changes[0].before}"]
    parts += ["\n".join([_head(change), change.diff or "as before\n"]) for change in changes]
    parts += [f"at the end\n\n{changes[-1].after}"]
    _compare(GOLDEN / f"{name}.txt", "\n".join(parts), request)


def _changes(model: nn.Module, target: str, text: str, shape: tuple[int, ...]) -> list[Change]:
    images = torch.randn(8, *shape)
    program = captured(model, images[:2], target=target).evolve(calibration=CalibrationStream(images, (shape,)))
    diff = Diff()
    run_pipeline(program, parse_pipeline(text), [diff])
    return diff.changes


def _head(change: Change) -> str:
    """The pass, its counts and what it said. Measured figures are left out: processors differ in the last digit."""
    notes = [re.sub(r"\d+\.\d+(e-?\d+)?", "#", note) for note in change.entry.notes]
    notes = [re.sub(r"(ranges from \d+ images): .*", r"\1", note) for note in notes]
    return "".join(f"{line}\n" for line in (f"{change.text}: {change.entry.counts}", *notes))


def _page(change: Change) -> str:
    after = change.after if change.after != change.before else "as before\n"
    return f"{_head(change)}\nbefore\n\n{change.before}\nafter\n\n{after}"


def _compare(path: Path, text: str, request: pytest.FixtureRequest) -> None:
    text = re.sub(r"int8, \[[^]]*\], [0-9.e-]+,", "int8, [scales], scale,", text)
    if request.config.getoption("--regenerate-golden"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")
