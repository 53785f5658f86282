"""A pass that changes nothing and notes the widest linear layer in the report."""

from dataclasses import dataclass

import torch

import vitc


@dataclass(frozen=True)
class LogLinears(vitc.Pass):
    """Notes how many linear layers there are, and those with at least `wide` output features."""

    name = "log-linears"
    needs = "canonical"

    wide: int = 1024

    def run(self, program: vitc.Program) -> vitc.Program:
        linears = program.graph.find_nodes(op="call_function", target=torch.ops.aten.linear.default)
        wide = sum(node.meta["val"].shape[-1] >= self.wide for node in linears)
        return program.note(f"{len(linears)} linears, {wide} of them with {self.wide} outputs or more")
