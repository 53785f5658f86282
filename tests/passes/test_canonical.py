"""Each canonicalisation: the numbers stay, the change happens where it should, and nowhere else."""

from __future__ import annotations

import attention_models as models
import pytest
import torch
from programs import CANON, captured, count, outputs, through
from torch import Tensor, nn

aten = torch.ops.aten
SDPA = aten.scaled_dot_product_attention.default
TOKENS = torch.Generator().manual_seed(3)


def tokens(count: int = models.TOKENS) -> Tensor:
    return torch.randn(2, count, models.WIDTH, generator=TOKENS)


class Lambda(nn.Module):
    """A module of one expression, with the submodules and parameters it uses."""

    def __init__(self, function, **parts) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(self, *inputs)


def check(model: nn.Module, text: str, *inputs: Tensor, tolerance: float = 1e-5):
    """The program after the pipeline; its outputs are those of the eager model, also at batch 3."""
    before = captured(model, *inputs)
    after = through(before, text)
    larger = tuple(torch.cat([t, t[:1]]) for t in inputs)
    for given in (inputs, larger):
        with torch.no_grad():
            torch.testing.assert_close(outputs(after, *given), model(*given), atol=tolerance, rtol=tolerance)
    return before, after


def test_drop_noops_removes_the_identities_of_inference() -> None:
    model = Lambda(lambda m, x: m.drop(x).clone().reshape(x.shape).to(torch.float32) * 1 + 0, drop=nn.Dropout(0.5))
    _, after = check(model, "drop-noops", tokens())
    assert [n.op for n in after.graph.nodes] == ["placeholder", "output"]
    assert after.journal[-1].erased >= 3


def test_drop_noops_keeps_what_changes_shape_or_value() -> None:
    model = Lambda(lambda m, x: (x * 2).reshape(-1, 8) + 1)
    before, after = check(model, "drop-noops", tokens())
    calls = [sum(n.op == "call_function" for n in p.graph.nodes) for p in (before, after)]
    assert calls[1] >= 3
    assert count(after, aten.mul.Tensor) == count(after, aten.add.Tensor) == 1


def test_fold_constants_computes_what_depends_on_weights_alone() -> None:
    model = Lambda(
        lambda m, x: x + m.table.exp().t()[None], table=nn.Parameter(torch.randn(models.WIDTH, models.TOKENS))
    )
    _, after = check(model, "fold-constants", tokens())
    assert [n.target for n in after.graph.nodes if n.op == "call_function"] == [aten.add.Tensor]


def test_fold_constants_knows_tensors_that_only_look_like_the_input() -> None:
    model = Lambda(lambda m, x: x + (x.new_zeros(models.WIDTH) + m.row), row=nn.Parameter(torch.randn(models.WIDTH)))
    _, after = check(model, "fold-constants", tokens())
    assert [n.target for n in after.graph.nodes if n.op == "call_function"] == [aten.add.Tensor]


def test_fold_constants_leaves_what_would_grow_beyond_max_bytes() -> None:
    model = Lambda(
        lambda m, x: x + m.row.expand(models.TOKENS, models.WIDTH), row=nn.Parameter(torch.randn(models.WIDTH))
    )
    _, after = check(model, "fold-constants{max_bytes=16}", tokens())
    assert count(after, aten.expand.default) == 1


def test_fold_constants_leaves_what_depends_on_the_input() -> None:
    _, after = check(Lambda(lambda m, x: x.exp()), "fold-constants", tokens())
    assert count(after, aten.exp.default) == 1


def test_fold_batch_norm_joins_the_convolution() -> None:
    norm = nn.BatchNorm2d(6)
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 2)
    model = Lambda(lambda m, x: m.norm(m.conv(x)), conv=nn.Conv2d(3, 6, 3), norm=norm)
    _, after = check(model, "fold-batch-norm", torch.randn(2, 3, 8, 8))
    assert [n.target for n in after.graph.nodes if n.op == "call_function"] == [aten.conv2d.default]


def test_batch_norm_whose_convolution_is_used_twice_keeps_both_results() -> None:
    norm = nn.BatchNorm2d(6)
    norm.running_mean.uniform_(-1, 1)
    model = Lambda(lambda m, x: m.norm(y := m.conv(x)) + y, conv=nn.Conv2d(3, 6, 3), norm=norm)
    _, after = check(model, CANON, torch.randn(2, 3, 8, 8))
    assert count(after, aten.batch_norm.default) == 0


@pytest.mark.parametrize("shape", [(6,), (1, 1, 6), (1,), ()], ids=str)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_layer_scale_goes_into_the_linear(shape: tuple[int, ...], bias: bool) -> None:
    parts = {"gamma": nn.Parameter(torch.randn(shape)), "linear": nn.Linear(models.WIDTH, 6, bias)}
    _, after = check(Lambda(lambda m, x: m.gamma * m.linear(x), **parts), CANON, tokens())
    assert [n.target for n in after.graph.nodes if n.op == "call_function"] == [aten.linear.default]


def test_a_scale_a_token_and_a_linear_used_twice_stay() -> None:
    by_token = {"gamma": nn.Parameter(torch.randn(models.TOKENS, 1)), "linear": nn.Linear(models.WIDTH, 6)}
    _, after = check(Lambda(lambda m, x: m.linear(x) * m.gamma, **by_token), CANON, tokens())
    assert count(after, aten.mul.Tensor) == 1
    twice = {"gamma": nn.Parameter(torch.randn(6)), "linear": nn.Linear(models.WIDTH, 6)}
    _, after = check(Lambda(lambda m, x: (y := m.linear(x)) * m.gamma + y, **twice), CANON, tokens())
    assert count(after, aten.mul.Tensor) == 1


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: x * 0.5 * (1.0 + torch.erf(x / 2**0.5)),
        lambda m, x: 0.5 * x * (torch.erf(x * 0.7071067811865476) + 1.0),
        lambda m, x: x * (0.5 * (1 + torch.erf(x / 2**0.5))),
    ],
)
def test_recognize_gelu(function) -> None:
    _, after = check(Lambda(function), "drop-noops,recognize-gelu", tokens())
    assert (count(after, aten.gelu.default), count(after, aten.erf.default)) == (1, 0)


@pytest.mark.parametrize(
    "function",
    [lambda m, x: x * 0.5 * (1.0 + torch.erf(x / 2.0)), lambda m, x: x * 0.25 * (1.0 + torch.erf(x / 2**0.5))],
    ids=["another divisor", "another factor"],
)
def test_what_is_almost_a_gelu_stays(function) -> None:
    _, after = check(Lambda(function), "drop-noops,recognize-gelu", tokens())
    assert (count(after, aten.gelu.default), count(after, aten.erf.default)) == (0, 1)


def _centred_layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred * torch.rsqrt((centred * centred).mean(-1, keepdim=True) + 1e-6) * weight + bias


def test_recognize_layer_norm() -> None:
    parts = {"w": nn.Parameter(torch.randn(models.WIDTH)), "b": nn.Parameter(torch.randn(models.WIDTH))}
    _, after = check(Lambda(lambda m, x: _centred_layer_norm(x, m.w, m.b), **parts), "recognize-layer-norm", tokens())
    assert [n.target for n in after.graph.nodes if n.op == "call_function"] == [aten.layer_norm.default]


def test_a_norm_over_another_dimension_stays() -> None:
    def function(m, x):
        centred = x - x.mean(1, keepdim=True)
        return centred / torch.sqrt(centred.pow(2).mean(1, keepdim=True) + 1e-6)

    _, after = check(Lambda(function), "recognize-layer-norm", tokens())
    assert count(after, aten.layer_norm.default) == 0


def test_batch_first_gives_multihead_attention_one_linear_on_the_input() -> None:
    _, after = check(models.SequenceFirst(), CANON, tokens())
    (attention,) = [n for n in after.graph.nodes if n.target is SDPA]
    first = next(n for n in after.graph.nodes if n.target is aten.linear.default)
    assert first.args[0].op == "placeholder"
    assert tuple(attention.meta["val"].shape)[1:] == (models.HEADS, models.TOKENS, models.WIDTH // models.HEADS)


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("kind", [models.Packed, models.WrittenOut, models.ScaledScores])
def test_every_spelling_becomes_one_attention(kind: type[models.Packed], bias: bool) -> None:
    _, after = check(kind(bias), CANON, tokens())
    assert (count(after, SDPA), count(after, aten.softmax.int)) == (1, 0)


def test_windows_become_one_attention() -> None:
    _, after = check(models.Windowed(), CANON, tokens(2 * models.TOKENS))
    assert (count(after, SDPA), count(after, aten.softmax.int)) == (1, 0)


@pytest.mark.parametrize(
    ("model", "count_tokens"),
    [
        (models.Temperature(), models.TOKENS),
        (models.MergedHeads(), models.TOKENS),
        (models.MergedHeads(bias=False), models.TOKENS),
        (models.OneHead(), models.TOKENS),
        (models.WindowsApart(), 2 * models.TOKENS),
    ],
    ids=["temperature", "merged heads, bias", "merged heads", "one head", "windows apart"],
)
def test_attention_of_any_rank_becomes_four_dimensional(model: nn.Module, count_tokens: int) -> None:
    _, after = check(model, CANON, tokens(count_tokens))
    (attention,) = [n for n in after.graph.nodes if n.target is SDPA]
    assert [len(n.meta["val"].shape) for n in attention.args[:3]] == [4, 4, 4]
    assert count(after, aten.softmax.int) == 0


def test_windows_apart_with_a_mask_keep_their_rank_and_the_journal_says_so() -> None:
    def function(m, x):
        heads = x.reshape(x.shape[0], 2, 1, models.TOKENS, models.WIDTH)
        return nn.functional.scaled_dot_product_attention(heads, heads, heads, attn_mask=m.mask).reshape(x.shape)

    model = Lambda(function, mask=nn.Parameter(torch.randn(models.TOKENS, models.TOKENS)))
    _, after = check(model, CANON, tokens(2 * models.TOKENS))
    assert any("keeps rank 5: a mask on windows beside the batch" in n for entry in after.journal for n in entry.notes)


def test_order_qkv_sorts_what_is_cut_by_head() -> None:
    model = models.PerHead()
    _, after = check(model, CANON, tokens())
    weight = next(n for n in after.graph.nodes if n.op == "get_attr" and str(n.target).startswith("qkv.weight"))
    size = models.WIDTH // models.HEADS
    by_head = model.qkv.weight.reshape(models.HEADS, 3, size, models.WIDTH).transpose(0, 1).reshape(-1, models.WIDTH)
    torch.testing.assert_close(after.module.get_parameter(str(weight.target)), by_head, rtol=0, atol=0)


def test_order_qkv_leaves_a_linear_that_others_read() -> None:
    class Read(models.PerHead):
        def forward(self, x):
            b, n, c = x.shape
            qkv = self.qkv(x)
            heads = (t.transpose(1, 2) for t in qkv.view(b, n, models.HEADS, -1).split([c // models.HEADS] * 3, dim=3))
            return self.proj(self.attend(*heads).transpose(1, 2).reshape(b, n, c)) + qkv.sum(-1, keepdim=True)

    _, after = check(Read(), CANON, tokens())
    assert not [n for n in after.graph.nodes if n.op == "get_attr" and "_ordered" in str(n.target)]


def test_a_bias_of_rank_three_gets_four() -> None:
    _, after = check(_masked(torch.randn(1, models.TOKENS, models.TOKENS)), CANON, tokens())
    (attention,) = [n for n in after.graph.nodes if n.target is SDPA]
    assert len(attention.args[3].meta["val"].shape) == 4


def test_talking_heads_are_left_alone_and_the_journal_says_so() -> None:
    _, after = check(models.TalkingHeads(), CANON, tokens())
    assert (count(after, SDPA), count(after, aten.softmax.int)) == (0, 1)
    notes = [n for entry in after.journal for n in entry.notes]
    assert any("is not fused: its result is not multiplied by v alone" in n for n in notes)


def test_softmax_over_another_dimension_is_left_alone() -> None:
    model = Lambda(lambda m, x: (x @ x.transpose(-2, -1)).softmax(1) @ x)
    _, after = check(model, CANON, tokens())
    assert any("softmax over dimension 1, not the keys" in n for entry in after.journal for n in entry.notes)


def _masked(mask: Tensor) -> nn.Module:
    def function(m, x):
        heads = x.unsqueeze(1)
        return nn.functional.scaled_dot_product_attention(heads, heads, heads, attn_mask=m.mask).squeeze(1)

    model = Lambda(function)
    model.register_buffer("mask", mask)
    return model


def test_an_all_true_mask_goes() -> None:
    _, after = check(_masked(torch.ones(1, 1, models.TOKENS, models.TOKENS, dtype=torch.bool)), CANON, tokens())
    (attention,) = [n for n in after.graph.nodes if n.target is SDPA]
    assert len(attention.args) < 4 or attention.args[3] is None


def test_a_constant_boolean_mask_becomes_additive() -> None:
    mask = torch.ones(1, 1, models.TOKENS, models.TOKENS, dtype=torch.bool).tril()
    _, after = check(_masked(mask), CANON, tokens())
    (attention,) = [n for n in after.graph.nodes if n.target is SDPA]
    assert attention.args[3].meta["val"].dtype == torch.float32


def test_merge_qkv_joins_three_linears() -> None:
    before, after = check(models.Separate(), CANON, tokens())
    assert (count(before, aten.linear.default), count(after, aten.linear.default)) == (4, 2)


def test_linears_of_two_tensors_stay_apart() -> None:
    _, after = check(models.Cross(), CANON, tokens(), tokens())
    assert count(after, aten.linear.default) == 3
