"""From cuts to a pruned program."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from vitc.passes.pruning.compensate import compensate
from vitc.passes.pruning.criteria import Compensation
from vitc.passes.pruning.facts import Facts
from vitc.passes.pruning.plan import Cut
from vitc.passes.pruning.selection import features_of
from vitc.passes.pruning.shrink import shrink
from vitc.passes.pruning.unpack import unpack_heads
from vitc.program import Program


def prepare(program: Program, kinds: Collection[str]) -> Program:
    """The program in the form in which groups of these kinds can be cut."""
    return unpack_heads(program) if {"qk", "v"} & set(kinds) else program


def apply_cuts(program: Program, facts: Facts, cuts: Sequence[Cut], compensation: Compensation) -> Program:
    """The program without what the cuts remove, in place; `facts` are of this program."""
    removed, content = features_of(facts.groups, {cut.group: cut.removed for cut in cuts})
    changed = compensate(program, facts, removed, compensation)
    shrink(program, facts.flow, removed, content)
    return program.note(f"{changed} layers make up for what went ({compensation})") if changed else program
