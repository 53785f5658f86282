"""prune: narrower layers and fewer heads, chosen by a criterion under a budget. The only pass that changes the
function."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Literal, get_args

import torch

from vitc.cost import block_of
from vitc.errors import PassError, unknown
from vitc.graph.nodes import module_path
from vitc.graph.program import Program
from vitc.passes.pruning.choose.costs import CostModel
from vitc.passes.pruning.choose.ranking import Queue, Ranking, least_time, queues
from vitc.passes.pruning.choose.selection import features_of
from vitc.passes.pruning.cut.apply import apply_cuts, prepare
from vitc.passes.pruning.cut.survivors import CannotCut, Survivors
from vitc.passes.pruning.find.grouping import find_groups
from vitc.passes.pruning.find.groups import Group, Groups, Kind, path_of
from vitc.passes.pruning.plan import Cost, Cut, PrunePlan, total
from vitc.passes.pruning.replay import replay, structure_fingerprint
from vitc.passes.pruning.score.criteria import COMPENSATION_NEEDS, Criterion, data_free, get_criterion
from vitc.passes.pruning.score.facts import Facts
from vitc.pipeline import Pass, register_pass

Measure = Literal["params", "flops", "latency"]
RankingOption = Literal["auto", Ranking]
_FIELD = {"params": "params", "flops": "flops", "latency": "ms"}


@register_pass
@dataclass(frozen=True)
class Prune(Pass):
    """Removes whole features, heads or blocks, the least important first, until the budget is met.

    Costs accuracy, which training recovers: see docs/pruning.md.

    ratio:     the share to take away, of `of`.
    of:        params, flops or (predicted) latency.
    criterion: what says which features matter least; 'auto' is 'obs' with calibration data, else 'l1'.
    ranking:   among the groups of one structure, or over all; 'auto' is over all where the criterion's scores compare.
    kinds:     what may go: mlp, heads, qk, v, width, blocks.
    keep:      modules that are left alone, by path.
    quantum:   widths become multiples of it; 0 takes the target's.
    floor:     the share of each group that stays in any case.
    plan:      the path of a saved plan, replayed instead of all of this.
    """

    name = "prune"
    needs = "canonical"
    gives = "pruned"
    before = ("tile-attention",)
    exact = False

    ratio: float = 0.0
    of: Measure = "params"
    criterion: str = "auto"
    ranking: RankingOption = "auto"
    kinds: tuple[str, ...] = ("mlp", "heads")
    keep: tuple[str, ...] = ()
    quantum: int = 0
    floor: float = 0.1
    plan: str | None = None

    def run(self, program: Program) -> Program:
        if self.plan is not None:
            return replay(PrunePlan.load(self.plan), program)
        self._check()
        mark = structure_fingerprint(program)
        program = prepare(program, self.kinds)
        groups = find_groups(program)
        offered = self._offered(groups)
        model = CostModel(program, groups.flow)
        if model.untimed and self.of == "latency":
            raise PassError(
                f"prune: of=latency cannot be met, {model.untimed}; vitc.prune and vitc.compile measure a cpu by"
                " themselves"
            )
        criterion = self._criterion(program)
        scorers = _scorers(criterion, offered)
        facts = Facts(program, groups, _needs(scorers.values(), criterion))
        ranking = self._ranking(scorers.values())
        scores = _scores(offered, scorers, facts)
        unfit: list[Cut] = []
        while True:
            cuts, before, after = self._choose(program, groups, offered, scores, model, ranking)
            refusal = _refusal(program, groups, cuts)
            if refusal is None:
                break
            alone = [g for g in offered if any(path_of(n) in refusal.layers for n in g.sources)]
            offered = [g for g in offered if g not in alone]
            if not alone or not offered:
                raise refusal
            unfit += [Cut(g.name, g.kind, len(g), (), None, str(refusal).partition(";")[0]) for g in alone]
        cuts = [*cuts, *unfit]
        program = program.note(_summary(criterion, ranking, cuts, before, after))
        if model.untimed:
            program = program.note(f"no cut was checked to make anything faster: {model.untimed}")
        program = apply_cuts(program, facts, cuts, criterion.compensation)
        earlier = program.pruning
        plan = PrunePlan(
            earlier.fingerprint if earlier else mark, program.target.name, criterion.name,
            (*(earlier.steps if earlier else ()), tuple(cuts)), earlier.before if earlier else before, after,
        )  # fmt: skip
        return program.evolve(pruning=plan)

    def _check(self) -> None:
        if not 0.0 < self.ratio < 1.0:
            raise PassError(f"prune: ratio is the share to take away, between 0 and 1, got {self.ratio:g}")
        if not 0.0 <= self.floor < 1.0:
            raise PassError(
                f"prune: floor is the share of each group that stays, from 0 to below 1, got {self.floor:g}"
            )
        if self.quantum < 0:
            raise PassError(f"prune: quantum is a number of channels, or 0 for the target's own, got {self.quantum}")
        for what, value, known in (("measure of a budget", self.of, Measure), ("ranking", self.ranking, RankingOption)):
            if value not in get_args(known):
                raise PassError(unknown(what, str(value), get_args(known)))
        for kind in self.kinds:
            if kind not in get_args(Kind):
                raise PassError(unknown("kind of prunable features", kind, get_args(Kind)))

    def _offered(self, groups: Groups) -> list[Group]:
        """The groups of the wanted kinds outside of what is kept."""
        paths = {module_path(n) for g in groups.groups for n in (*g.sources, *g.readers)}
        for pattern in self.keep:
            if not any(_matches(path, pattern) for path in paths):
                raise PassError(
                    unknown("module in prune's keep", pattern, paths, "keep takes module paths and patterns with *")
                )
        wanted = [g for g in groups.groups if g.kind in self.kinds]
        if not wanted:
            reasons = (
                "; ".join(f"{r.path}: {r.reason}" for r in groups.refused[:5])
                or "the model has no linear and no convolution"
            )
            others = ", ".join(dict.fromkeys(g.kind for g in groups.groups)) or "none"
            raise PassError(
                f"prune: no group of the kinds {', '.join(self.kinds)} can be pruned; of others: {others}. {reasons}"
            )
        found = [g for g in wanted if not self._is_kept(g)]
        if not found:
            raise PassError(
                f"prune: keep={list(self.keep)} leaves alone all {len(wanted)} groups of the kinds"
                f" {', '.join(self.kinds)}"
            )
        return found

    def _is_kept(self, group: Group) -> bool:
        return any(_matches(module_path(n), pattern) for n in (*group.sources, *group.readers) for pattern in self.keep)

    def _criterion(self, program: Program) -> Criterion:
        name = self.criterion
        if name == "auto":
            name = "obs" if program.samples is not None else "l1"
        criterion = get_criterion(name)
        if criterion.needs and program.samples is None:
            what = "labelled batches" if "gradients" in criterion.needs else "batches of inputs"
            free = ", ".join(data_free())
            raise PassError(
                f"criterion {name!r} needs {' and '.join(criterion.needs)}: pass data={what} to vitc.prune or"
                f" vitc.compile (compile's calibration= serves too); without data: {free}"
            )
        return criterion

    def _ranking(self, scorers: Iterable[Criterion]) -> Ranking:
        if self.ranking == "auto":
            return "global" if all(scorer.comparable for scorer in scorers) else "isomorphic"
        return self.ranking

    def _choose(
        self,
        program: Program,
        groups: Groups,
        offered: list[Group],
        scores: Mapping[str, torch.Tensor],
        model: CostModel,
        ranking: Ranking,
    ) -> tuple[list[Cut], dict[str, Cost], dict[str, Cost]]:
        nothing = features_of(groups, {})[0]
        before = model.of(nothing)
        goal = (1.0 - self.ratio) * self._figure(before)

        def cost(selection: Mapping[str, list[int]]) -> float:
            return self._figure(model.of(features_of(groups, selection)[0]))

        def cost_of_unit(group: Group) -> float:
            first = _first_step(group)
            return max(self._figure(before) - cost({group.name: first}), 1e-12) / len(first)

        quantum = self.quantum or program.target.int8_quantum
        waiting = queues(offered, scores, cost_of_unit, ranking, quantum, self.floor)
        slower: dict[str, str] = {}
        while True:
            chosen = least_time(waiting, lambda s: cost(s) <= goal) if waiting else None
            if chosen is None:
                raise PassError(self._out_of_reach(waiting, cost, before, slower))
            useless = _useless(chosen, model, groups)
            if not useless:
                break
            slower |= useless
            waiting = [q for q in waiting if q.group.name not in useless]
        removed = features_of(groups, chosen)[0]
        was, now = model.blocks(nothing), model.blocks(removed)
        cuts = [_cut(g, chosen.get(g.name, []), was, now, slower.get(g.name)) for g in offered]
        return cuts, was, now

    def _figure(self, cost: Cost) -> float:
        return float(getattr(cost, _FIELD[self.of]))

    def _out_of_reach(
        self,
        waiting: list[Queue],
        cost: Callable[[Mapping[str, list[int]]], float],
        before: Cost,
        slower: Mapping[str, str],
    ) -> str:
        everything = {q.group.name: q.removed_at(1.0) for q in waiting}
        most = 1.0 - cost(everything) / self._figure(before) if waiting else 0.0
        refused = "".join(f"; {name}: {reason}" for name, reason in list(slower.items())[:5])
        return (
            f"prune: {self.ratio:.0%} of {self.of} is out of reach; at most {most:.1%} can go with"
            f" kinds={list(self.kinds)}, floor={self.floor:g} and keep={list(self.keep)}{refused}"
        )


def _refusal(program: Program, groups: Groups, cuts: list[Cut]) -> CannotCut | None:
    """Why the graph cannot go on with what these cuts leave; None if it can."""
    survivors = Survivors(groups.flow, features_of(groups, {c.group: list(c.removed) for c in cuts if c.removed})[0])
    try:
        for node in program.graph.nodes:
            survivors.loses(node)
    except CannotCut as refusal:
        return refusal
    return None


def _scorers(criterion: Criterion, groups: list[Group]) -> dict[str, Criterion]:
    """The criterion for each kind. Queries and keys are read by no layer: where the criterion cannot see them, 'snp'
    does."""
    scorers: dict[str, Criterion] = {}
    for kind in dict.fromkeys(g.kind for g in groups):
        if criterion.kinds is None or kind in criterion.kinds:
            scorers[kind] = criterion
        elif kind == "qk" and criterion.needs:
            scorers[kind] = get_criterion("snp")
        else:
            raise PassError(
                f"criterion {criterion.name!r} cannot score {kind!r}: it scores {', '.join(criterion.kinds)}; "
                "l1, taylor and hessian score every kind"
            )
    return scorers


def _needs(scorers: Iterable[Criterion], criterion: Criterion) -> set[str]:
    return {need for scorer in scorers for need in scorer.needs} | COMPENSATION_NEEDS[criterion.compensation]


def _scores(groups: list[Group], scorers: Mapping[str, Criterion], facts: Facts) -> dict[str, torch.Tensor]:
    for scorer in set(scorers.values()):
        scorer.prepare(facts)
    scores = {}
    for group in groups:
        scorer = scorers[group.kind]
        score = scorer.score_group(group, facts).float()
        if score.shape != (len(group),) or not bool(torch.isfinite(score).all()):
            raise PassError(
                f"criterion {scorer.name!r} gave {group.name} scores of shape {list(score.shape)}, or not finite; "
                f"it must give one finite number for each unit: [{len(group)}]"
            )
        scores[group.name] = score
    return scores


def _useless(chosen: Mapping[str, list[int]], model: CostModel, groups: Groups) -> dict[str, str]:
    """The cuts without which the model would be as fast, with the reason; none where no time can be predicted."""
    with_all = model.of(features_of(groups, chosen)[0]).ms
    found = {}
    for name in chosen:
        without = model.of(features_of(groups, {n: u for n, u in chosen.items() if n != name})[0]).ms
        if with_all is not None and without is not None and without <= with_all:
            found[name] = f"a cut to {len(chosen[name])} fewer makes nothing faster on {model.target.name}"
    return found


def _cut(group: Group, removed: list[int], was: Mapping[str, Cost], now: Mapping[str, Cost], reason: str | None) -> Cut:
    block = block_of(module_path(group.sources[0]))
    before, after = (costs[block].ms if block in costs else 0.0 for costs in (was, now))
    ms = None if before is None or after is None else (before, after)
    return Cut(group.name, group.kind, len(group), () if reason else tuple(removed), ms, reason)


def _summary(
    criterion: Criterion, ranking: Ranking, cuts: list[Cut], before: Mapping[str, Cost], after: Mapping[str, Cost]
) -> str:
    was, now = total(before.values()), total(after.values())
    shares = [f"params −{1 - now.params / was.params:.1%}", f"FLOPs −{1 - now.flops / was.flops:.1%}"]
    if was.ms is not None and now.ms is not None:
        shares.append(f"predicted time −{1 - now.ms / was.ms:.1%}")
    made = sum(bool(c.removed) for c in cuts)
    return f"{', '.join(shares)} by {made} cuts of {len(cuts)} groups, criterion {criterion.name}, {ranking} ranking"


def _first_step(group: Group) -> list[int]:
    if group.heads is None:
        return [0]
    return [int((group.heads == h).nonzero()[0]) for h in group.heads.unique()]


def _matches(path: str, pattern: str) -> bool:
    return fnmatch(path, pattern) or path.startswith(f"{pattern}.")
