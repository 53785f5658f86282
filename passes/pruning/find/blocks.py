"""Whole blocks: a residual block x → x + f(x) + g(…) without its branches is x."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch.fx import Node

from vitc.cost import block_of
from vitc.graph import Rewriter
from vitc.graph.nodes import is_tensor, module_path, operand, same_shape, shape_of
from vitc.graph.program import Program
from vitc.passes.pruning.find.flow import Flow, Source
from vitc.passes.pruning.find.groups import Group

aten = torch.ops.aten


@dataclass(frozen=True)
class Block:
    """A block of the model: `entry` goes in, `result` is its last residual sum."""

    path: str
    entry: Node
    result: Node


def find_blocks(program: Program) -> list[Block]:
    """The blocks whose residual sums form one chain of equal shape, in the order of the graph."""
    position = {node: i for i, node in enumerate(program.graph.nodes)}
    chains: dict[str, list[tuple[Node, Node]]] = {}
    for node in program.graph.nodes:
        skip = _skip(node, position)
        path = block_of(module_path(node))
        if skip is not None:
            chains.setdefault(path, []).append((skip, node))
    found = []
    for path, sums in chains.items():
        linked = all(later[0] is earlier[1] for earlier, later in pairwise(sums))
        entry, result = sums[0][0], sums[-1][1]
        if linked and same_shape(shape_of(entry), shape_of(result)):
            found.append(Block(path, entry, result))
    return found


def block_groups(program: Program, flow: Flow) -> list[Group]:
    """Groups of kind 'blocks': one unit is a block, its features all that are made inside of it. Blocks with other
    numbers of features are in other groups."""
    inside = _sources_by_block(program, flow)
    by_size: dict[int, list[str]] = {}
    for path, sources in inside.items():
        by_size.setdefault(sum(s.width for s in sources), []).append(path)
    return [
        Group(
            f"{paths[0]}:blocks",
            "blocks",
            torch.stack(
                [torch.cat([torch.arange(s.first, s.first + s.width) for s in inside[path]]) for path in paths]
            ),
            tuple(s.node for s in inside[paths[0]]),
            readers=(),
            width=0,
        )
        for size, paths in by_size.items()
        if len(paths) > 1 and size
    ]


def features_by_block(program: Program, flow: Flow) -> dict[str, torch.Tensor]:
    """The numbers of the features that are made inside of each block."""
    return {
        path: torch.cat([torch.arange(s.first, s.first + s.width) for s in sources])
        for path, sources in _sources_by_block(program, flow).items()
        if sources
    }


def _sources_by_block(program: Program, flow: Flow) -> dict[str, list[Source]]:
    inside: dict[str, list[Source]] = {b.path: [] for b in find_blocks(program)}
    for source in flow.sources:
        path = block_of(module_path(source.node))
        if path in inside:
            inside[path].append(source)
    return inside


def bypass(program: Program, group: Group, flow: Flow, units: Collection[int]) -> None:
    """Takes the blocks that are the given units of a group out of the program, in place."""
    rewriter = Rewriter(program.module, "prune")
    by_path = {b.path: b for b in find_blocks(program)}
    standing: dict[Node, Node] = {}  # the result of a block that is gone → what stands for it
    for unit in units:
        first = int(group.units[unit][0])
        block = by_path[block_of(module_path(flow.sources[int(flow.made_by[first])].node))]
        entry = block.entry
        while entry in standing:  # its neighbour before has gone already
            entry = standing[entry]
        block.result.replace_all_uses_with(entry)
        standing[block.result] = entry
    rewriter.finish()


def _skip(node: Node, position: dict[Node, int]) -> Node | None:
    """x of a residual sum x + f(x), or None."""
    if node.target is not aten.add.Tensor or not all(is_tensor(a) for a in node.args[:2]):
        return None
    left, right = operand(node), operand(node, 1)
    for skip, branch in ((left, right), (right, left)):
        if same_shape(shape_of(skip), shape_of(branch)) and _depends(branch, skip, position):
            return skip
    return None


def _depends(node: Node, on: Node, position: dict[Node, int]) -> bool:
    seen, pending = set(), [node]
    while pending:
        current = pending.pop()
        for source in current.all_input_nodes:
            if source is on:
                return True
            if source not in seen and position[source] > position[on]:
                seen.add(source)
                pending.append(source)
    return False
