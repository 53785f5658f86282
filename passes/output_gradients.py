"""How much an error in a tensor matters at the model's outputs.

For outputs y and random signs r, E[(∂(r·y)/∂o)²] = Σ (∂y/∂o)²: one backward run tells, for every element of a
tensor o, by how much the squared error of the outputs grows with the squared error there (Hutchinson's
estimator; the diagonal of the Gauss–Newton matrix, with which PTQ4ViT, arXiv 2111.12293, weighs errors too). Without
it the class token, one row of many and all that a classifier reads, would count like any patch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.utils._pytree import tree_leaves

from vitc.graph.movement import example_shape
from vitc.graph.program import Program
from vitc.passes.interpreter import FastInterpreter

#: Rows of the largest GEMM that are run at a time.
_TOKENS = 512


def output_gradients(
    module: GraphModule, inputs: Sequence[Tensor], nodes: Sequence[Node], generator: torch.Generator
) -> dict[Node, tuple[Tensor, Tensor]]:
    """(value, gradient of r·y) of each node on a batch; zeros for a node without influence on the outputs."""
    runner = _Keeping(module, set(nodes))
    with torch.enable_grad():
        leaves = [t.clone().requires_grad_(t.is_floating_point()) for t in inputs]
        outputs = [t for t in tree_leaves(runner.run(*leaves, enable_io_processing=False)) if isinstance(t, Tensor)]
        loss = sum((_signs(t, generator) * t).sum() for t in outputs if t.is_floating_point())
        kept = [runner.kept[n] for n in nodes]
        wanted = [t for t in kept if t.requires_grad]
        found = iter(torch.autograd.grad(loss, wanted, allow_unused=True))  # type: ignore[arg-type]
    result = {}
    for node, value in zip(nodes, kept, strict=True):
        gradient = next(found) if value.requires_grad else None
        result[node] = (value.detach(), torch.zeros_like(value) if gradient is None else gradient)
    return result


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, like.shape, generator=generator).to(like.dtype) * 2 - 1


class _Keeping(FastInterpreter):
    def __init__(self, module: GraphModule, wanted: set[Node]) -> None:
        super().__init__(module)
        self.wanted = wanted
        self.kept: dict[Node, Tensor] = {}

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        if n in self.wanted:
            self.kept[n] = result
        return result


def images_at_a_time(program: Program) -> int:
    """How many images run at a time, so that a backward run keeps the activations of few tokens; a fixed batch's
    own."""
    return max(1, _TOKENS // tokens_of(program)) if program.batch is not None else program.example_inputs[0].shape[0]


def tokens_of(program: Program) -> int:
    """Rows an image has in the largest GEMM."""
    linears = program.graph.find_nodes(op="call_function", target=torch.ops.aten.linear.default)
    batch = program.example_inputs[0].shape[0]
    return max([math.prod(example_shape(n)[:-1]) // batch for n in linears], default=1) or 1
