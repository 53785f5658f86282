"""Rewriter.edit: in place, typed, counted, and the only way a pass changes a node."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from programs import captured
from torch import Tensor, nn

import vitc
from vitc.errors import PassError
from vitc.graph.nodes import val
from vitc.graph.program import Program
from vitc.graph.rewriter import Rewriter
from vitc.pipeline.base import Pass
from vitc.pipeline.manager import run_pipeline

ROOT = Path(vitc.__file__).parents[1]
aten = torch.ops.aten


class Two(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x).reshape(-1, 6)


def one(program: Program, target: object) -> torch.fx.Node:
    (node,) = (n for n in program.graph.nodes if n.target is target)
    return node


def test_an_edited_node_has_the_type_that_follows() -> None:
    program = captured(Two(), torch.randn(3, 4, 3))
    node = one(program, aten.view.default)
    rewriter = Rewriter(program.module, "test")
    rewriter.edit(node, args=(node.args[0], [-1, 4, 3]))
    assert tuple(val(node).shape)[1:] == (4, 3)
    rewriter.edit(node, target=aten.flatten.using_ints, args=(node.args[0], 1))
    rewriter.finish()
    x = torch.randn(2, 4, 3)
    torch.testing.assert_close(program.run(x)[0], torch.relu(x).flatten(1))


def test_a_wrong_edit_names_the_pass_and_leaves_the_node() -> None:
    program = captured(Two(), torch.randn(3, 4, 3))
    node = one(program, aten.view.default)
    before = (node.target, node.args, tuple(val(node).shape))
    with pytest.raises(
        PassError, match=r"pass 'test' gave node .*view.* arguments that aten.view.default does not take"
    ):
        Rewriter(program.module, "test").edit(node, args=(node.args[0], [5, 5]))
    assert (node.target, node.args, tuple(val(node).shape)) == before


@dataclass(frozen=True)
class Flatten(Pass):
    """Edits one node, makes one, erases one."""

    name = "flatten"

    def run(self, program: Program) -> Program:
        rewriter = Rewriter(program.module, self.name)
        node = one(program, aten.view.default)
        rewriter.edit(node, args=(node.args[0], [-1, 12]))
        relu = one(program, aten.relu.default)
        with rewriter.at(relu):
            rewriter.replace(relu, rewriter.call(aten.clamp_min.default, relu.args[0], 0.0))
        rewriter.finish()
        return program


@dataclass(frozen=True)
class Nothing(Pass):
    name = "nothing"

    def run(self, program: Program) -> Program:
        rewriter = Rewriter(program.module, self.name)
        for node in program.graph.find_nodes(op="call_function", target=aten.view.default):
            rewriter.edit(node, args=node.args)
        rewriter.finish()
        return program


def test_the_journal_counts_what_was_created_erased_and_changed() -> None:
    program = run_pipeline(captured(Two(), torch.randn(3, 4, 3)), [Flatten(), Nothing()])
    assert [entry.counts for entry in program.journal] == ["+1 −1 ~1", "+0 −0 ~0"]


@pytest.mark.parametrize("attribute", ["args", "kwargs", "target"])
def test_no_pass_changes_a_node_but_through_the_rewriter(attribute: str) -> None:
    """Only its own `self.target = …` may a class of passes/ assign."""
    found = []
    for folder in ("passes", "vitc", "lowering"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path.name == "rewriter.py":
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
                if isinstance(node, (ast.Assign, ast.AugAssign)) and any(_writes(t, attribute) for t in targets):
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not found, f"use Rewriter.edit, which types and counts the change: {', '.join(found)}"


def _writes(target: ast.AST | None, attribute: str) -> bool:
    if isinstance(target, ast.Tuple):
        return any(_writes(element, attribute) for element in target.elts)
    if not isinstance(target, ast.Attribute) or target.attr != attribute:
        return False
    return not (isinstance(target.value, ast.Name) and target.value.id == "self")
