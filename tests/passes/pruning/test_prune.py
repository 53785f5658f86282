"""The pass: options as text, budgets, what is kept, what is refused, and the graph it leaves."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_vits import Shape, SmallViT, program_of

from vitc.errors import PassError
from vitc.graph import print_graph
from vitc.graph.program import Program
from vitc.passes.pruning.choose.ranking import Queue, least_time, queues
from vitc.passes.pruning.find.grouping import find_groups
from vitc.passes.pruning.plan import Cost, Cut
from vitc.passes.pruning.prune import Prune
from vitc.pipeline import parse_pipeline, print_pipeline, run_pipeline
from vitc.pruning import with_samples
from vitc.targets import load

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def program() -> Program:
    torch.manual_seed(0)
    return program_of(SmallViT(Shape(heads=4, head_dim=8), depth=2))


def _through(program: Program, text: str) -> Program:
    return run_pipeline(program, parse_pipeline(text))


def test_options_are_text() -> None:
    text = (
        "prune{ratio=0.35,of=latency,criterion=taylor,ranking=global,kinds=[mlp,qk],"
        "keep=[blocks.0,head],quantum=8,floor=0.2}"
    )
    assert print_pipeline(parse_pipeline(text)) == text
    assert print_pipeline((Prune(ratio=0.3, keep=("blocks.*.attn",)),)) == "prune{ratio=0.3,keep=[blocks.*.attn]}"


def test_golden(program: Program) -> None:
    """A quarter of the parameters out of a small ViT. Write it anew with print_graph after a change that is meant."""
    pruned = _through(program, "prune{ratio=0.25}")
    assert print_graph(pruned.graph) == (GOLDEN / "small_vit.txt").read_text()


@pytest.mark.parametrize(("of", "ratio"), [("params", 0.2), ("flops", 0.2), ("latency", 0.1)])
@pytest.mark.parametrize("ranking", ["isomorphic", "global"])
def test_budgets(program: Program, of: str, ratio: float, ranking: str) -> None:
    # A device whose launches cost nothing: else they are nearly all of a small model's time, and no narrower layer
    # saves one.
    program = program.evolve(target=replace(load("orin"), launch_overhead_us=1e-6))
    plan = _through(program, f"prune{{ratio={ratio},of={of},ranking={ranking},quantum=1}}").pruning
    assert plan is not None
    field = {"latency": "ms"}.get(of, of)
    left = getattr(plan.total("after"), field) / getattr(plan.total("before"), field)
    assert 0.6 < left <= 1 - ratio


def test_the_estimate_is_what_the_program_has(program: Program) -> None:
    pruned = _through(program, "prune{ratio=0.3}")
    assert pruned.pruning is not None
    assert pruned.pruning.total("before").params == pytest.approx(program.parameter_count())
    assert pruned.pruning.total("after").params == pytest.approx(pruned.parameter_count(), rel=1e-6)


@pytest.mark.parametrize("kinds", ["qk,v", "width", "blocks", "mlp,heads,qk,v,width,blocks"])
def test_every_kind_runs(program: Program, kinds: str) -> None:
    pruned = _through(program, f"prune{{ratio=0.1,kinds=[{kinds}]}}")
    assert pruned.parameter_count() <= 0.9 * program.parameter_count()
    assert [tuple(t.shape) for t in pruned.run(*(t[:1] for t in program.example_inputs))] == [(1, 5)]


def test_a_block_that_goes_leaves_the_rest_as_it_was() -> None:
    torch.manual_seed(0)
    model = SmallViT(Shape(heads=4, head_dim=8), depth=3)
    with torch.no_grad():  # makes the middle block the least by l1
        for parameter in model.blocks[1].parameters():
            parameter.mul_(0.01)
    program = program_of(model)
    pruned = _through(program, "prune{ratio=0.2,kinds=[blocks]}")
    del model.blocks[1]
    with torch.no_grad():
        torch.testing.assert_close(pruned.run(*program.example_inputs)[0], model(*program.example_inputs))


def test_what_is_kept_is_left_alone(program: Program) -> None:
    pruned = _through(program, "prune{ratio=0.1,keep=[blocks.0,blocks.1.attn]}")
    assert pruned.pruning is not None
    (cut,) = pruned.pruning.steps[0]
    assert cut.group == "blocks.1.mlp.fc1:mlp"


def test_widths_are_multiples_of_the_targets_quantum() -> None:
    program = program_of(SmallViT(Shape(heads=4, head_dim=32), depth=1), target=load("orin"))
    pruned = _through(program, "prune{ratio=0.3}")
    assert pruned.pruning is not None
    left = {cut.group: cut.units - len(cut.removed) for cut in pruned.pruning.steps[0]}
    assert left["blocks.0.mlp.fc1:mlp"] % 64 == 0  # of 384
    assert left["blocks.0.attn:heads"] * 32 % 32 == 0


def test_a_cut_that_makes_nothing_faster_is_refused_and_shown(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vitc.passes.pruning.choose.costs import CostModel

    real = CostModel.blocks

    def flat_attention(self: CostModel, removed: torch.Tensor) -> dict[str, Cost]:
        heads = torch.tensor(
            [f for g in find_groups(program).groups if g.kind == "heads" for f in g.units.flatten().tolist()]
        )
        without = removed.clone()
        without[heads] = False  # on this device, fewer heads save nothing
        return {n: Cost(c.params, c.bytes, c.flops, real(self, without)[n].ms) for n, c in real(self, removed).items()}

    monkeypatch.setattr(CostModel, "blocks", flat_attention)
    pruned = _through(program, "prune{ratio=0.2}")
    assert pruned.pruning is not None
    heads = [c for c in pruned.pruning.steps[0] if c.kind == "heads"]
    assert all(not c.removed for c in heads)
    assert any("makes nothing faster on cpu" in str(c) for c in heads)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prune", "ratio is the share to take away, between 0 and 1, got 0"),
        ("prune{ratio=1.5}", "ratio is the share to take away, between 0 and 1, got 1.5"),
        ("prune{ratio=0.3,floor=1.0}", "floor is the share of each group that stays, from 0 to below 1, got 1"),
        ("prune{ratio=0.3,kinds=[mpl]}", "unknown kind of prunable features 'mpl'; .* did you mean 'mlp'"),
        (
            "prune{ratio=0.3,keep=[blocks.7]}",
            "unknown module in prune's keep 'blocks.7'; known: .* keep takes module paths",
        ),
        ("prune{ratio=0.3,quantum=-1}", "quantum is a number of channels, or 0 for the target's own, got -1"),
        ("prune{ratio=0.3,keep=[blocks]}", r"keep=\['blocks'\] leaves alone all 4 groups of the kinds mlp, heads"),
        ("prune{ratio=0.99}", "99% of params is out of reach; at most .*% can go with kinds="),
        (
            "prune{ratio=0.3,criterion=variance}",
            "criterion 'variance' needs activations: pass data=batches of inputs .* without data: l1",
        ),
        ("prune{ratio=0.3,criterion=taylor}", "criterion 'taylor' needs gradients: pass data=labelled batches"),
        ("prune{ratio=0.3,plan=nowhere.json}", "there is no pruning plan 'nowhere.json'"),
    ],
)
def test_refusals(program: Program, text: str, message: str) -> None:
    with pytest.raises(PassError, match=message):
        _through(program, text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ranking": "globl"}, "unknown ranking 'globl'; known: auto, global, isomorphic"),
        ({"of": "ms"}, "unknown measure of a budget 'ms'"),
    ],
)
def test_options_of_a_pass_made_in_python_are_checked_too(
    program: Program, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(PassError, match=message):
        run_pipeline(program, (Prune(ratio=0.3, **options),))


def test_no_group_of_the_kinds() -> None:
    one_block = program_of(SmallViT(Shape(), depth=1))
    with pytest.raises(
        PassError,
        match=r"of the kinds blocks can be pruned; of others: width, qk, v, heads, mlp. head: the model returns",
    ):
        _through(one_block, "prune{ratio=0.3,kinds=[blocks]}")
    with pytest.raises(
        PassError, match="mlp, heads can be pruned; of others: none. the model has no linear and no convolution"
    ):
        _through(program_of(torch.nn.GELU(), (5, 8)), "prune{ratio=0.3}")


def test_a_device_on_which_nothing_pays_is_named(program: Program) -> None:
    launches = program.evolve(target=replace(load("orin"), launch_overhead_us=1e20))
    with pytest.raises(
        PassError,
        match=r"at most 0.0% can go .*; blocks.0.mlp.fc1:mlp: a cut to \d+ fewer makes nothing faster on orin",
    ):
        _through(launches, "prune{ratio=0.3,kinds=[mlp]}")


def test_without_rates_latency_is_refused_and_other_budgets_cut_unchecked(program: Program) -> None:
    unknown = program.evolve(target=load("cpu"))
    with pytest.raises(
        PassError,
        match="of=latency cannot be met, target 'cpu' has no fp32_tflops.*; vitc.prune and vitc.compile measure",
    ):
        _through(unknown, "prune{ratio=0.2,of=latency}")
    pruned = _through(unknown, "prune{ratio=0.2,of=flops}")
    summary, unchecked = pruned.journal[-1].notes
    assert "predicted time" not in summary
    assert unchecked.startswith(
        "no cut was checked to make anything faster: target 'cpu' has no fp32_tflops, so no time can be"
    )
    assert pruned.pruning is not None
    assert pruned.pruning.total("after").ms is None
    assert "predicted" not in str(pruned.pruning.steps[0][0])
    assert "? →      ?" in str(pruned.pruning)


def test_what_stays_makes_up_is_noted(program: Program) -> None:
    with_data = with_samples(program, torch.randn(8, 3, 8, 8), None)
    summary, compensated = _through(with_data, "prune{ratio=0.2,criterion=variance,kinds=[mlp]}").journal[-1].notes
    shares = r"params −\d+.\d%, FLOPs −.*%, predicted time −.*%"
    assert re.fullmatch(rf"{shares} by 2 cuts of 2 groups, criterion variance, isomorphic ranking", summary)
    assert compensated == "2 layers make up for what went (mean)"


def test_a_criterion_that_cannot_score_a_kind_is_refused(program: Program) -> None:
    with_data = with_samples(program, torch.randn(8, 3, 8, 8), None)
    with pytest.raises(
        PassError, match="criterion 'variance' cannot score 'width': it scores mlp, heads, v; l1, taylor and hessian"
    ):
        _through(with_data, "prune{ratio=0.2,criterion=variance,kinds=[width]}")
    assert _through(with_data, "prune{ratio=0.1,criterion=variance,kinds=[qk,v]}").pruning is not None  # snp scores qk


def test_a_replayed_plan_says_what_it_could_not_do(program: Program, tmp_path: Path) -> None:
    made = _through(with_samples(program, torch.randn(8, 3, 8, 8), None), "prune{ratio=0.2}")
    assert made.pruning is not None
    made.pruning.save(tmp_path / "plan.json")
    again = _through(program, f'prune{{plan="{tmp_path}/plan.json"}}')
    assert again.journal[-1].notes == ("no data, so what stays does not make up for what goes (obs would)",)
    assert again.parameter_count() == made.parameter_count()
    assert "blocks.0.mlp.fc1: " not in str(again.pruning)
    assert "blocks.0.mlp.fc1:mlp: 96 →" in str(again.pruning)


def test_scores_that_are_not_one_a_unit_are_refused(program: Program) -> None:
    import vitc

    @vitc.register_criterion
    class Bad(vitc.Criterion):
        """Not finite."""

        name = "bad"

        def score(self, layer: object) -> torch.Tensor:
            return torch.full((layer.weight.shape[0],), torch.nan)  # type: ignore[attr-defined]

    with pytest.raises(
        PassError, match=r"'bad' gave blocks.0.attn:heads scores of shape \[4\], or not finite; .* for each unit: \[4\]"
    ):
        _through(program, "prune{ratio=0.2,criterion=bad}")


@pytest.mark.parametrize(
    ("options", "ranking"),
    [
        ("criterion=obs", "global"),
        ("criterion=taylor,kinds=[mlp,heads,qk]", "global"),
        ("criterion=obs,kinds=[mlp,qk]", "isomorphic"),  # queries and keys by snp, whose scores are of another kind
        ("criterion=variance", "isomorphic"),
        ("criterion=obs,ranking=isomorphic", "isomorphic"),
        ("criterion=l1,ranking=global", "global"),
    ],
)
def test_structures_are_ranked_together_where_their_scores_compare(
    program: Program, options: str, ranking: str
) -> None:
    images = torch.randn(16, *program.example_inputs[0].shape[1:], generator=torch.Generator().manual_seed(1))
    labels = torch.arange(16) % 5
    pruned = _through(with_samples(program, [(images, labels)], None), f"prune{{ratio=0.2,{options}}}")
    assert pruned.journal[-1].notes[0].endswith(f", {ranking} ranking")


def test_queues_round_to_the_quantum_and_keep_the_floor(program: Program) -> None:
    group = next(g for g in find_groups(program).groups if g.kind == "mlp")  # 96 channels
    (queue,) = queues([group], {group.name: torch.arange(96.0)}, lambda _: 1.0, "isomorphic", 16, 0.3)
    assert isinstance(queue, Queue)
    sizes = {96 - len(queue.removed_at(t / 20)) for t in range(21)}
    assert sizes == {96, 80, 64, 48, 32}  # 0.3 · 96 = 28.8, rounded up to a multiple of 16
    assert queue.removed_at(0.35) == list(range(32))
    assert least_time([queue], lambda s: len(s.get(group.name, ())) >= 40) == {group.name: list(range(48))}
    assert least_time([queue], lambda s: False) is None


def test_a_cut_shows_itself() -> None:
    assert str(Cut("a:mlp", "mlp", 8, (1, 2), (2.0, 1.5))) == "a:mlp: 8 → 6, block 2.000 → 1.500 ms predicted"
    assert str(Cut("a:mlp", "mlp", 8, (), (2.0, 2.0), "no gain")) == "a:mlp: 8 stay, no gain"


def test_neighboring_blocks_go_together() -> None:
    """Both go, not the later alone; and the plan's parameters are those that are left: no layer behind a block that is
    gone becomes narrower."""
    torch.manual_seed(0)
    model = SmallViT(Shape(heads=4, head_dim=8), depth=4)
    with torch.no_grad():
        for block in model.blocks[1:3]:
            for parameter in block.parameters():
                parameter.mul_(1e-3)
    program = program_of(model)
    pruned = _through(program, "prune{ratio=0.4,kinds=[blocks]}")
    plan = pruned.pruning
    assert plan is not None
    del model.blocks[1:3]
    x = torch.randn(2, *program.example_inputs[0].shape[1:])
    torch.testing.assert_close(pruned.run(x)[0], model(x), atol=1e-5, rtol=1e-5)
    told = sum(cost.params for cost in plan.after.values())
    assert told == pytest.approx(pruned.parameter_count(), rel=1e-6)
