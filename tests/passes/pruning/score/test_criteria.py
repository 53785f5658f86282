"""Each criterion against its formula worked out by hand, and the algebra of removal against least squares."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from small_vits import Shape, SmallViT, program_of
from torch import nn

import vitc
from vitc.errors import InputError, PassError
from vitc.graph import constant
from vitc.graph.program import Program
from vitc.passes.pruning.find.grouping import find_groups
from vitc.passes.pruning.score.criteria import get_criterion, known_criteria, register_criterion
from vitc.passes.pruning.score.facts import Facts, Layer, weight_rows
from vitc.passes.pruning.score.removal import damped, regression, removal_order
from vitc.pruning import with_samples

IMAGES = torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(12) % 5


@pytest.fixture(scope="module")
def program() -> Program:
    torch.manual_seed(0)
    return with_samples(
        program_of(SmallViT(Shape(), depth=1)), [(IMAGES[:6], LABELS[:6]), (IMAGES[6:], LABELS[6:])], None
    )


def _named(program: Program, path: str) -> torch.fx.Node:
    return next(n for n in find_groups(program).flow.columns if str(n.args[1].target) == f"{path}.weight")


def _hidden(program: Program) -> torch.Tensor:
    """What fc2 reads, [rows, 24], by running the graph."""
    reader = _named(program, "blocks.0.mlp.fc2")
    seen = {}

    class Watch(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> object:
            result = super().run_node(n)
            if n is reader.args[0]:
                seen["x"] = result
            return result

    with torch.no_grad():
        Watch(program.module).run(IMAGES, enable_io_processing=False)
    return seen["x"].flatten(0, -2)


def _scores(program: Program, name: str, group: str = "blocks.0.mlp.fc1:mlp") -> torch.Tensor:
    criterion, groups = get_criterion(name), find_groups(program)
    facts = Facts(program, groups, criterion.needs)
    criterion.prepare(facts)
    return criterion.score_group(next(g for g in groups.groups if g.name == group), facts)


def _gradients(program: Program) -> list[torch.Tensor]:
    """Of fc1's rows, the bias as last column, by batch."""
    weight, bias = (program.module.get_parameter(f"blocks.0.mlp.fc1.{n}") for n in ("weight", "bias"))
    found = []
    for part in (slice(0, 6), slice(6, 12)):
        loss = torch.nn.functional.cross_entropy(program.module(IMAGES[part]), LABELS[part])
        g = torch.autograd.grad(loss, [weight, bias])
        found.append(torch.cat([g[0], g[1][:, None]], 1))
    return found


def test_l1(program: Program) -> None:
    w, b = (program.module.get_parameter(f"blocks.0.mlp.fc1.{n}").detach() for n in ("weight", "bias"))
    torch.testing.assert_close(_scores(program, "l1"), w.abs().sum(1) + b.abs())


def test_variance_is_that_behind_the_activation_function(program: Program) -> None:
    torch.testing.assert_close(
        _scores(program, "variance").float(), _hidden(program).var(0, unbiased=False), rtol=1e-4, atol=1e-6
    )


def test_criteria_of_gradients(program: Program) -> None:
    grads = _gradients(program)
    layer = next(
        s.node for s in find_groups(program).flow.sources if str(s.node.args[1].target) == "blocks.0.mlp.fc1.weight"
    )
    rows = weight_rows(program.module, layer)
    assert rows.shape == grads[0].shape
    taylor = sum((g * rows).sum(1) ** 2 for g in grads) / 2
    torch.testing.assert_close(_scores(program, "taylor"), taylor, rtol=1e-4, atol=1e-9)
    hessian = 0.5 * (sum(g**2 for g in grads) / 2 * rows**2).sum(1)
    torch.testing.assert_close(_scores(program, "hessian"), hessian, rtol=1e-4, atol=1e-9)
    product = (sum(grads) / 2).norm(dim=1) * _hidden(program).var(0, unbiased=False)
    torch.testing.assert_close(_scores(program, "grad-variance").float(), product, rtol=1e-3, atol=1e-9)


def test_snp_is_the_norm_of_the_term_of_the_scores(program: Program) -> None:
    group = "blocks.0.attn:qk"
    groups = find_groups(program)
    linear = next(s.node for s in groups.flow.sources if str(s.node.args[1].target) == "blocks.0.attn.qkv.weight")
    seen = {}

    class Watch(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> object:
            result = super().run_node(n)
            if n is linear:
                seen["qkv"] = result
            return result

    with torch.no_grad():
        Watch(program.module).run(IMAGES, enable_io_processing=False)
    q, k = (part.flatten(0, -2).square().mean(0).sqrt() for part in seen["qkv"].chunk(3, -1)[:2])
    torch.testing.assert_close(_scores(program, "snp", group), q * k, rtol=1e-4, atol=1e-6)


def test_regression_is_least_squares() -> None:
    x = torch.randn(200, 6, generator=torch.Generator().manual_seed(2)) @ torch.randn(
        6, 6, generator=torch.Generator().manual_seed(3)
    )
    gone = torch.tensor([True, False, False, True, False, False])
    centred = x - x.mean(0)
    covariance = centred.T @ centred / len(x)
    ridge = damped(covariance)
    want = torch.linalg.solve(ridge[~gone][:, ~gone], ridge[~gone][:, gone]).T
    torch.testing.assert_close(regression(covariance, gone), want)
    plain = torch.linalg.lstsq(centred[:, ~gone], centred[:, gone]).solution.T
    torch.testing.assert_close(regression(covariance, gone), plain, rtol=0.2, atol=0.1)  # the damping


def test_obs_eliminates_a_copy_first_and_its_error_is_that_of_least_squares(program: Program) -> None:
    groups = find_groups(program)
    facts = Facts(program, groups, ("covariance",))
    reader = _named(program, "blocks.0.mlp.fc2")
    group = next(g for g in groups.groups if g.name == "blocks.0.mlp.fc1:mlp")
    x = _hidden(program).clone()
    x[:, 1] = x[:, 0]
    centred = x - x.mean(0)
    covariance = centred.T @ centred / len(x)
    gain = facts.reader(reader).gain
    seen = SimpleNamespace(covariance=covariance, gain=gain)
    copy = SimpleNamespace(flow=facts.flow, module=facts.module, reader=lambda _: seen)
    order = removal_order(copy, group, reader)  # type: ignore[arg-type]
    ranks, alone = order.argsort().argsort(), removal_order(facts, group, reader).argsort().argsort()
    assert ranks[[0, 1]].min() < alone[[0, 1]].min()
    assert ranks[[0, 1]].max() > ranks[[0, 1]].min() + 1  # with one gone, the other matters again
    first = int(order.argmin())
    weight = constant(program.module, reader.args[1])
    gone = torch.zeros(24, dtype=torch.bool)
    gone[first] = True
    ridge = damped(covariance)
    left = ridge[gone][:, gone] - regression(covariance, gone) @ ridge[~gone][:, gone]
    errors = (weight[:, gone] @ left @ weight[:, gone].T).diagonal()  # of each output
    torch.testing.assert_close(order[first], (errors * gain).sum(), rtol=1e-3, atol=1e-9)


def test_obs_scores_are_what_each_unit_adds_to_the_error_of_all(program: Program) -> None:
    groups = find_groups(program)
    facts = Facts(program, groups, ("covariance",))
    reader = _named(program, "blocks.0.mlp.fc2")
    group = next(g for g in groups.groups if g.name == "blocks.0.mlp.fc1:mlp")
    scores = removal_order(facts, group, reader)
    weight, gain = constant(program.module, reader.args[1]), facts.reader(reader).gain
    ridge = damped(facts.reader(reader).covariance)
    order = scores.argsort()
    for count in (1, 4, 8):
        gone = torch.zeros(24, dtype=torch.bool)
        gone[order[:count]] = True
        left = ridge[gone][:, gone] - regression(facts.reader(reader).covariance, gone) @ ridge[~gone][:, gone]
        error = ((weight[:, gone] @ left @ weight[:, gone].T).diagonal() * gain).sum()
        torch.testing.assert_close(scores[order[:count]].sum(), error, rtol=0.02, atol=0)


def test_a_reader_counts_by_the_squared_jacobian_of_the_outputs(program: Program) -> None:
    facts = Facts(program, find_groups(program), ("covariance",))
    torch.testing.assert_close(facts.reader(_named(program, "head")).gain, torch.ones(5))
    reader = _named(program, "blocks.0.mlp.fc2")
    value: list[torch.Tensor] = []

    class Watch(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> object:
            result = super().run_node(n)
            if n is reader:
                value.append(result.detach().requires_grad_())
            return value[0] if n is reader else result

    (outputs,) = Watch(program.module).run(IMAGES, enable_io_processing=False)
    rows = [torch.autograd.grad(outputs[:, k].sum(), value[0], retain_graph=True)[0] for k in range(5)]
    exact = torch.stack(rows).square().sum(0)  # [images, tokens, channels]
    # Random signs, one draw an image: right on average, so the sum over the channels is nearer than each.
    torch.testing.assert_close(facts.reader(reader).gain.sum(), exact.sum() / len(IMAGES), rtol=0.2, atol=0)
    # Half of a token's weight is its share of the image's squared gradient.
    x, matters = _hidden(program).reshape(len(IMAGES), -1, 24), exact.sum(2)
    weight = (1 + matters / matters.mean(1, keepdim=True))[..., None]
    mean = (x * weight).sum((0, 1)) / weight.sum()
    want = torch.einsum("itc,itd->cd", (x - mean) * weight, x - mean) / weight.sum()
    got = facts.reader(reader).covariance
    plain = (x - x.mean((0, 1))).flatten(0, 1)
    unweighted = plain.T @ plain / len(plain)
    assert (got - want).norm() < 0.5 * (got - unweighted).norm()


class _Branches(nn.Module):
    """Two equal branches, of which the second hardly counts."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = (nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 8)) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x) + 0.01 * self.second(x)  # type: ignore[no-any-return]


def test_obs_takes_from_where_the_outputs_move_least() -> None:
    data = torch.randn(256, 16, generator=torch.Generator().manual_seed(1))
    made = vitc.prune(_Branches().eval(), 0.35, criterion="obs", kinds=("mlp",), data=[data], example_inputs=data[:2])
    assert {c.group: len(c.removed) for step in made.plan.steps for c in step} == {"first.0:mlp": 0, "second.0:mlp": 48}


@pytest.mark.parametrize(("criterion", "worse_than"), [("variance", None), ("obs", "variance")])
def test_compensation_brings_the_output_nearer(program: Program, criterion: str, worse_than: str | None) -> None:
    def error(name: str) -> float:
        pruned = vitc.passes.pruning.prune.Prune(ratio=0.2, criterion=name, kinds=("mlp",)).run(program.fork())
        return float((pruned.run(IMAGES)[0] - program.run(IMAGES)[0]).square().mean())

    assert error(criterion) < error(worse_than or "l1")


def test_a_criterion_of_ones_own() -> None:
    @register_criterion
    class Mine(vitc.Criterion):
        """Mean of |w|."""

        name = "mine"

        def score(self, layer: Layer) -> torch.Tensor:
            return layer.weight.abs().mean(1)

    assert known_criteria()["mine"] is Mine
    pruned = vitc.prune(SmallViT(Shape(), depth=1).eval(), 0.2, criterion="mine", example_inputs=IMAGES[:2])
    assert pruned.plan.criterion == "mine"


def test_refusals_of_criteria(program: Program) -> None:
    with pytest.raises(PassError, match="has no name; set the class attribute name = 'my-criterion'"):
        register_criterion(type("Nameless", (vitc.Criterion,), {}))
    with pytest.raises(PassError, match="criterion 'l1' is defined twice: in vitc.passes.pruning.score.criteria.L1"):
        register_criterion(type("Other", (vitc.Criterion,), {"name": "l1"}))
    with pytest.raises(PassError, match="unknown pruning criterion 'taylr'; known: .*; did you mean 'taylor'"):
        get_criterion("taylr")
    with pytest.raises(PassError, match=r"criterion '' scores nothing; give its class a method score\(self, layer\)"):
        vitc.Criterion().score(Layer(torch.ones(1, 1)))
    unlabelled = with_samples(program, IMAGES, None)
    with pytest.raises(InputError, match="needs labels"):
        Facts(unlabelled, find_groups(unlabelled), ("gradients",))
