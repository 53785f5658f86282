"""tile-attention: the layouts, against torch's own attention; the tiles, against the memory they must fit."""

from __future__ import annotations

import attention_models as models
import pytest
import torch
from programs import CANON, TILED, captured, count, outputs, through
from torch import nn

import vitc.targets
from vitc.graph.attention_call import AttentionCall
from vitc.graph.ops import tiled_attention
from vitc.passes.tiling.tile_attention import choose_tiles

ATTENTION = torch.ops.vitc.attention.default


def _tokens(count: int = models.TOKENS) -> torch.Tensor:
    return torch.randn(2, count, models.WIDTH, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize(
    ("model", "layout", "inputs"),
    [
        (models.Packed(), "packed", 1),
        (models.Packed(bias=True), "packed", 1),
        (models.Separate(), "packed", 1),
        (models.SequenceFirst(), "packed", 1),
        (models.PerHead(), "packed", 1),
        (models.MergedHeads(), "packed", 1),
        (models.Cross(), "bnhd", 2),
        (models.Normed(), "bhnd", 1),
    ],
    ids=["packed", "packed bias", "separate", "sequence first", "per head", "merged heads", "cross", "normed"],
)
def test_layout_and_numbers(model: nn.Module, layout: str, inputs: int) -> None:
    given = tuple(_tokens() + i for i in range(inputs))
    program = through(captured(model, *given), TILED)
    (node,) = [n for n in program.graph.nodes if n.target is ATTENTION]
    assert node.args[7] == layout
    for batch in (1, 3):
        larger = tuple(t[:1].repeat(batch, 1, 1) + torch.arange(batch).reshape(-1, 1, 1) for t in given)
        with torch.no_grad():
            torch.testing.assert_close(outputs(program, *larger), model(*larger), atol=1e-5, rtol=1e-5)


def test_windows_share_a_bias_of_one_row_a_window() -> None:
    model, x = models.Windowed(), _tokens(2 * models.TOKENS)
    program = through(captured(model, x), TILED)
    (node,) = [n for n in program.graph.nodes if n.target is ATTENTION]
    assert tuple(node.args[3].meta["val"].shape) == (2, models.HEADS, models.TOKENS, models.TOKENS)
    for given in (x[:1], torch.cat([x, x[:1]])):
        with torch.no_grad():
            torch.testing.assert_close(outputs(program, given), model(given), atol=1e-5, rtol=1e-5)


def test_windows_apart_are_packed_up_to_a_view() -> None:
    model, x = models.WindowsApart(), _tokens(2 * models.TOKENS)
    program = through(captured(model, x), TILED)
    (node,) = [n for n in program.graph.nodes if n.target is ATTENTION]
    assert node.args[7] == "packed"
    for given in (x[:1], torch.cat([x, x[:1]])):
        with torch.no_grad():
            torch.testing.assert_close(outputs(program, given), model(given), atol=1e-5, rtol=1e-5)


def test_unequal_head_sizes_stay_decomposed_with_the_reason() -> None:
    class Wide(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            heads = x.unsqueeze(1)
            out = nn.functional.scaled_dot_product_attention(heads, heads, torch.cat([heads, heads], -1))
            return out.squeeze(1)

    program = through(captured(Wide(), _tokens()), TILED)
    assert count(program, ATTENTION) == 0
    assert any("differ in batch, heads or head size" in n for n in program.journal[-1].notes)
    with torch.no_grad():
        torch.testing.assert_close(outputs(program), Wide()(program.example_inputs[0]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("tile_q", "tile_k"), [(16, 16), (32, 16), (16, 48), (256, 256)])
@pytest.mark.parametrize("windows", [0, 1, 3])
def test_online_softmax_is_the_softmax(tile_q: int, tile_k: int, windows: int) -> None:
    q, k, v = (torch.randn(6, 2, n, 8) for n in (37, 41, 41))
    bias = torch.randn(windows, 2, 37, 41) if windows else None
    mask = bias.repeat(6 // windows, 1, 1, 1) if bias is not None else None
    want = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.3)
    got = tiled_attention(q, k, v, bias, 0.3, tile_q, tile_k)
    torch.testing.assert_close(got, want.transpose(1, 2).reshape(6, 37, 16), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("head_dim", [32, 64, 128])
@pytest.mark.parametrize("tokens", [50, 197, 1024])
def test_tiles_fit_the_memory_of_the_target(head_dim: int, tokens: int) -> None:
    target = vitc.targets.load("orin")
    tile_q, tile_k = choose_tiles(target, tokens, tokens, head_dim, heads=12)
    assert 2 * head_dim * (tile_q + 4 * tile_k) <= target.tile_memory
    assert tile_q % 16 == tile_k % 16 == 0


def test_tile_options_win() -> None:
    program = through(captured(models.Packed(), _tokens()), f"{CANON},tile-attention{{tile_q=16,tile_k=32}}")
    (node,) = [n for n in program.graph.nodes if n.target is ATTENTION]
    assert node.args[8:10] == (16, 32)


class Causal(nn.Module):
    """A text tower's attention: torch's own flag, or the mask as a library writes it."""

    def __init__(self, lowest: float | None) -> None:
        super().__init__()
        self.qkv = nn.Linear(models.WIDTH, 3 * models.WIDTH)
        mask = None if lowest is None else torch.full((models.TOKENS, models.TOKENS), lowest).triu(1)
        self.register_buffer("mask", mask)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, models.HEADS, -1)).permute(2, 0, 3, 1, 4)
        out = nn.functional.scaled_dot_product_attention(q, k, v, self.mask, is_causal=self.mask is None)
        return out.transpose(1, 2).flatten(2)


@pytest.mark.parametrize("lowest", [None, -torch.inf, torch.finfo(torch.float32).min])
def test_a_causal_mask_goes_by_position_on_a_gpu(lowest: float | None) -> None:
    model = Causal(lowest)
    program = through(captured(model, _tokens()), TILED)
    (node,) = [n for n in program.graph.nodes if n.target is ATTENTION]
    call = AttentionCall.of(node)
    assert (call.causal, call.bias, call.layout) == (1, None, "packed")
    with torch.no_grad():
        torch.testing.assert_close(outputs(program), model(_tokens()), atol=1e-5, rtol=1e-5)


def test_a_causal_mask_stays_a_bias_on_a_cpu() -> None:
    program = through(captured(Causal(None), _tokens(), target="cpu"), TILED)
    (node,) = [n for n in program.graph.nodes if n.target is ATTENTION]
    assert AttentionCall.of(node).causal == 0
    assert AttentionCall.of(node).bias is not None


@pytest.mark.parametrize("lowest", [-10.0, -1e4])
def test_a_mask_that_only_discourages_is_a_bias(lowest: float) -> None:
    program = through(captured(Causal(lowest), _tokens()), TILED)
    (node,) = [n for n in program.graph.nodes if n.target is ATTENTION]
    assert AttentionCall.of(node).causal == 0
