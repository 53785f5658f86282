"""window-attention: against plain attention with a mask that says who sees whom."""

from __future__ import annotations

import attention_models as models
import pytest
import torch
from programs import TILED, captured, count, outputs, through
from torch import Tensor, nn

import vitc
from vitc.errors import InputError

ATTENTION = torch.ops.vitc.attention.default


class Masked(nn.Module):
    """The same weights, with the mask of a windowed attention spelled out."""

    def __init__(self, model: models.Packed, mask: Tensor) -> None:
        super().__init__()
        self.model = model
        self.mask = mask

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.model.qkv(x).reshape(b, n, 3, models.HEADS, -1).permute(2, 0, 3, 1, 4).unbind(0)
        out = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=self.mask)
        return self.model.proj(out.transpose(1, 2).reshape(b, n, c))


def _mask(tokens: int, front: int, window: int, overlap: int) -> Tensor:
    """Who sees whom, token by token."""
    size = window + 2 * overlap
    mask = torch.zeros(tokens, tokens, dtype=torch.bool)
    mask[:front] = True
    mask[:, :front] = True
    for token in range(front, tokens):
        block = (token - front) // window
        start = min(max(front + block * window - overlap, front), tokens - size)
        mask[token, start : start + size] = True
    return mask


@pytest.mark.parametrize(
    ("tokens", "front", "window", "overlap"), [(64, 0, 16, 4), (65, 1, 16, 8), (69, 5, 8, 0), (65, 1, 32, 10)]
)
@pytest.mark.parametrize("kind", [models.Packed, models.Separate])
def test_each_block_sees_itself_its_overlap_and_the_global_tokens(
    kind, tokens: int, front: int, window: int, overlap: int
) -> None:
    model = kind().eval()
    x = torch.randn(2, tokens, models.WIDTH)
    program = through(captured(model, x), f"{TILED},window-attention{{window={window},overlap={overlap}}}")
    assert count(program, ATTENTION) == (2 if front else 1)
    packed = models.Packed()
    if kind is models.Separate:
        packed.qkv.weight = nn.Parameter(torch.cat([model.query.weight, model.key.weight, model.value.weight]))
        packed.qkv.bias = nn.Parameter(torch.cat([model.query.bias, model.key.bias, model.value.bias]))
        packed.proj = model.out
    else:
        packed = model
    reference = Masked(packed, _mask(tokens, front, window, overlap))
    for given in (x[:1], torch.cat([x, x[:1]])):
        with torch.no_grad():
            torch.testing.assert_close(outputs(program, given), reference(given), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("model", "tokens", "options", "reason"),
    [
        (models.Packed(bias=True), models.TOKENS, "window=2,overlap=0", "it has a bias"),
        (models.Normed(), 64, "window=8,overlap=0", "layout bhnd"),
        (models.Packed(), 49, "window=32,overlap=16", "49 tokens are no more than a window sees"),
        (
            models.Packed(),
            64,
            "window=10,overlap=1",
            "64 tokens are no whole number of windows of 10; 8 and 4 would be",
        ),
    ],
    ids=["bias", "layout", "small", "not whole"],
)
def test_what_stays_exact_says_why(model: nn.Module, tokens: int, options: str, reason: str) -> None:
    x = torch.randn(2, tokens, models.WIDTH)
    program = through(captured(model, x), f"{TILED},window-attention{{{options}}}")
    assert any(reason in note for note in program.journal[-1].notes)
    with torch.no_grad():
        torch.testing.assert_close(outputs(program), model(x), atol=1e-5, rtol=1e-5)


def test_sizes_that_make_no_window_are_refused() -> None:
    with pytest.raises(InputError, match="needs window ≥ 1 and overlap ≥ 0, got 0 and 2"):
        through(
            captured(models.Packed(), torch.randn(2, 64, models.WIDTH)),
            f"{TILED},window-attention{{window=0,overlap=2}}",
        )


def test_compile_takes_it_by_name_through_int8() -> None:
    model, x = models.Packed().eval(), torch.randn(4, 401, models.WIDTH)
    plan = vitc.plan(model, "orin", example_inputs=x, calibration=x, attention="window-attention{window=80,overlap=40}")
    assert "tile-attention,window-attention{window=80,overlap=40}," in plan.report.pipeline
    assert count(plan.program, torch.ops.vitc.attention_int8.default) == 2


def test_compile_refuses_an_unknown_name() -> None:
    with pytest.raises(InputError, match="attention must be 'exact', 'window' or the text of a pass, got 'sparse'"):
        vitc.plan(models.Packed().eval(), "cpu", example_inputs=torch.randn(2, 64, models.WIDTH), attention="sparse")
