"""From cuts to a pruned program."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch

from vitc.graph.program import Program
from vitc.passes.pruning.choose.selection import features_of
from vitc.passes.pruning.cut.compensate import compensate
from vitc.passes.pruning.cut.shrink import shrink
from vitc.passes.pruning.find.blocks import bypass
from vitc.passes.pruning.find.grouping import find_groups
from vitc.passes.pruning.find.unpack import unpack_heads
from vitc.passes.pruning.plan import Cut
from vitc.passes.pruning.score.criteria import Compensation
from vitc.passes.pruning.score.facts import Facts


def prepare(program: Program, kinds: Collection[str]) -> Program:
    """The program in the form in which groups of these kinds can be cut."""
    return unpack_heads(program) if {"qk", "v"} & set(kinds) else program


def apply_cuts(program: Program, facts: Facts, cuts: Sequence[Cut], compensation: Compensation) -> Program:
    """Takes what the cuts remove out of the program, in place; `facts` are of this program."""
    by_name = {g.name: g for g in facts.groups.groups}
    blocks = [cut for cut in cuts if cut.kind == "blocks" and cut.removed]
    for cut in blocks:
        bypass(program, by_name[cut.group], facts.flow, cut.removed)
    if blocks:  # what is left is numbered anew
        facts = Facts(program, find_groups(program), facts.needs)
    left = {g.name for g in facts.groups.groups if g.kind != "blocks"}
    removed, content = features_of(facts.groups, {cut.group: cut.removed for cut in cuts if cut.group in left})
    gone = torch.ones_like(removed)
    gone[content[~removed]] = False  # inside of heads, other features go than the places that do
    changed = compensate(program, facts, gone, compensation)
    shrink(program, facts.flow, removed, content)
    return program.note(f"{changed} layers make up for what went ({compensation})") if changed else program
