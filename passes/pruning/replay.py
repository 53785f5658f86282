"""A pruning plan, replayed on another checkpoint of the model it was made for."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from vitc.errors import PassError, unknown
from vitc.graph.nodes import is_constant
from vitc.graph.printer import print_graph
from vitc.graph.program import Program
from vitc.passes.pruning.cut.apply import apply_cuts, prepare
from vitc.passes.pruning.find.grouping import find_groups
from vitc.passes.pruning.find.groups import Groups
from vitc.passes.pruning.plan import Cut, PrunePlan
from vitc.passes.pruning.score.criteria import COMPENSATION_NEEDS, get_criterion
from vitc.passes.pruning.score.facts import Facts


def replay(plan: PrunePlan, program: Program) -> Program:
    """The program pruned by a plan made for another checkpoint of the same model.

    Where the plan's criterion compensates for what goes, it does so again if the program has data, and says so if not.
    Raises PassError for another model.
    """
    check_fits(plan, program)
    compensation = get_criterion(plan.criterion).compensation
    if compensation != "none" and program.samples is None:
        program = program.note(f"no data, so what stays does not make up for what goes ({plan.criterion} would)")
        compensation = "none"
    for step in plan.steps:
        program = prepare(program, {cut.kind for cut in step})
        groups = find_groups(program)
        check_cuts(step, groups)
        program = apply_cuts(program, Facts(program, groups, COMPENSATION_NEEDS[compensation]), step, compensation)
    return program.evolve(pruning=plan)


def structure_fingerprint(program: Program) -> str:
    """A hash of the graph and the shapes of its weights, the same for every checkpoint of a model."""
    shapes = sorted({f"{n.target} {list(n.meta['val'].shape)}" for n in program.graph.nodes if is_constant(n)})
    return hashlib.sha256((print_graph(program.graph) + "\n".join(shapes)).encode()).hexdigest()


def check_fits(plan: PrunePlan, program: Program) -> None:
    """Raises PassError unless the plan was made for this very graph."""
    found = structure_fingerprint(program)
    if found != plan.fingerprint:
        raise PassError(
            f"the pruning plan was made for another model: its graph has the fingerprint {plan.fingerprint[:12]}, this"
            f" one {found[:12]}; a plan can be replayed on other weights of the same model, with the same input size"
        )


def check_cuts(cuts: Sequence[Cut], groups: Groups) -> None:
    """Raises PassError unless each cut takes units away that one of the groups has: a plan is a file that can be
    edited."""
    sizes = {g.name: len(g) for g in groups.groups}
    for cut in cuts:
        if cut.group not in sizes:
            raise PassError(unknown("group in the pruning plan", cut.group, sizes))
        wrong = [unit for unit in cut.removed if not 0 <= unit < sizes[cut.group]]
        if wrong:
            raise PassError(
                f"the pruning plan takes the units {wrong} from {cut.group}, whose units are 0 to"
                f" {sizes[cut.group] - 1}"
            )
