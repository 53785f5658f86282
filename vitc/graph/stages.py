"""What is legal at each stage, as data.

A stage names the operators it forbids, each with the reason and what removes it, and the dtypes its tensors may
have. The verify instrument checks a program's stage after every pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

import vitc.graph.ops  # noqa: F401  registers torch.ops.vitc
from vitc.errors import StageError
from vitc.graph.nodes import is_tensor, val, where
from vitc.graph.printer import op_name
from vitc.graph.program import Program

_FLOATS = frozenset({torch.float32, torch.float16, torch.float64, torch.bfloat16})
_INTS = frozenset({torch.int64, torch.int32, torch.int16, torch.bool, torch.uint8})
_COMPLEX = frozenset({torch.complex64, torch.complex128})


@dataclass(frozen=True)
class StageSpec:
    """The legal graph of one stage: forbidden operators (name → reason) and allowed tensor dtypes."""

    name: str
    forbidden: Mapping[str, str]
    dtypes: frozenset[torch.dtype]


_NOT_CANONICAL = {
    name: "is the identity in inference; 'drop-noops' removes it"
    for name in ("aten.clone", "aten.alias", "aten.detach", "aten.dropout", "aten.contiguous", "aten.lift_fresh_copy")
} | {
    name: "folds into its neighbour; 'fold-batch-norm' does it"
    for name in ("aten.batch_norm", "aten._native_batch_norm_legit_no_training")
}
_NOT_TILED = _NOT_CANONICAL | {"aten.scaled_dot_product_attention": "must be vitc.attention; 'tile-attention' does it"}

#: In the order of the pipeline.
STAGES: Mapping[str, StageSpec] = {
    spec.name: spec
    for spec in (
        StageSpec("captured", {}, _FLOATS | _INTS | _COMPLEX),
        StageSpec("canonical", _NOT_CANONICAL, _FLOATS | _INTS),
        StageSpec("pruned", _NOT_CANONICAL, _FLOATS | _INTS),
        StageSpec("tiled", _NOT_TILED, _FLOATS | _INTS),
        StageSpec("quantized", _NOT_TILED, _FLOATS | _INTS | {torch.int8}),
    )
}
STAGE_ORDER = tuple(STAGES)


def check_stage(program: Program, made_by: str) -> None:
    """Raises StageError, naming every illegal node, if the graph is not legal at its stage."""
    spec = STAGES[program.stage]
    problems = []
    for node in program.graph.nodes:
        if node.op == "call_function" and (reason := spec.forbidden.get(op_name(node))):
            problems.append(f"{where(node)} {reason}")
        if is_tensor(node) and val(node).dtype not in spec.dtypes:
            problems.append(f"{where(node)} has dtype {val(node).dtype}, which stage {spec.name!r} does not know")
        if op_name(node) == "aten.add.Tensor" and spec.name == "quantized":
            problems += _quantized_residual(node)
    if problems:
        listed = "\n  ".join(problems[:10])
        more = f"\n  … and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise StageError(f"after {made_by!r} the graph is not legal at stage {spec.name!r}:\n  {listed}{more}")


def _quantized_residual(node: torch.fx.Node) -> list[str]:
    """A residual Add on dequantized operands costs accuracy (0.03 % top-1 on a real Orin Nano) and is refused."""
    operands = [a for a in node.args if isinstance(a, torch.fx.Node)]
    if len(operands) == 2 and all(op_name(a) == "vitc.dequantize" for a in operands):
        return [f"{where(node)} adds two dequantized tensors; residual adds stay in floating point"]
    return []
