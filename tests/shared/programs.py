"""Shared by the tests of passes: capture a small model, run a pipeline, compare."""

from __future__ import annotations

import torch
from torch.utils._pytree import tree_leaves

import vitc.targets
from vitc.frontend.capture import capture
from vitc.graph.program import Program
from vitc.pipeline import parse_pipeline, run_pipeline
from vitc.pipeline.default import CANONICAL

CANON = ",".join(CANONICAL)
TILED = f"{CANON},tile-attention"


def captured(model: torch.nn.Module, *inputs: torch.Tensor, target: str = "orin") -> Program:
    return capture(model.eval(), vitc.targets.load(target), inputs)


def through(program: Program, text: str) -> Program:
    return run_pipeline(program, parse_pipeline(text))


def count(program: Program, target: object) -> int:
    return sum(n.target is target for n in program.graph.nodes)


def outputs(program: Program, *inputs: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        (out,) = tree_leaves(program(*(inputs or program.example_inputs)))
    return out
