"""A pass of one's own: the exact GELU becomes its tanh form, which some engines run faster. It costs a little accuracy.

python examples/custom_pass.py
vitc passes --passes examples/custom_pass.py
"""

from dataclasses import dataclass

import torch

import vitc

gelu = torch.ops.aten.gelu.default


@vitc.register_pass
@dataclass(frozen=True)
class TanhGelu(vitc.Pass):
    """Replaces every exact GELU by the tanh form."""

    name = "tanh-gelu"
    needs = "canonical"  # there, GELU has one spelling
    before = ("tile-attention",)

    def run(self, program: vitc.Program) -> vitc.Program:
        rewriter = vitc.Rewriter(program.module, self.name)
        for node in program.graph.find_nodes(op="call_function", target=gelu):
            if node.kwargs.get("approximate", "none") == "none":
                with rewriter.at(node):
                    tanh = rewriter.call(gelu, node.args[0], approximate="tanh")
                rewriter.replace(node, tanh)
        rewriter.finish()
        return program


def main() -> None:
    torch.manual_seed(0)
    mlp = torch.nn.Sequential(torch.nn.Linear(32, 128), torch.nn.GELU(), torch.nn.Linear(128, 10)).eval()
    x = torch.randn(2, 32)
    compiled = vitc.compile(
        mlp, "cpu", example_inputs=x, pipeline="drop-noops,recognize-gelu,canonical,tanh-gelu,tile-attention"
    )
    print(compiled.report)
    print(f"largest difference: {(compiled(x) - mlp(x)).abs().max():.1e}")


if __name__ == "__main__":
    main()
