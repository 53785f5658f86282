"""canonical: the gate to stage 'canonical'. It changes nothing; the stage's spec is checked behind it."""

from __future__ import annotations

from dataclasses import dataclass

from vitc.graph.program import Program
from vitc.pipeline import Pass, register_pass


@register_pass
@dataclass(frozen=True)
class Canonical(Pass):
    """Declares the graph canonical; the stage's rules are checked behind it."""

    name = "canonical"
    gives = "canonical"
    after = (
        "drop-noops", "fold-constants", "fold-batch-norm", "fold-layer-scale", "recognize-gelu",
        "recognize-layer-norm", "batch-first",
        "fuse-attention", "attention-4d", "simplify-mask", "merge-qkv",
        "order-qkv",
    )  # fmt: skip

    def run(self, program: Program) -> Program:
        return program
