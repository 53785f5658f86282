"""What a pass is.

The contract: the graph is valid before a pass and valid after it; in between nothing is promised. A pass is a frozen
dataclass. Its fields are its options, its class attributes say where it may stand, and `run` does the work:

    @vitc.register_pass
    @dataclass(frozen=True)
    class DropRelu(vitc.Pass):
        \"\"\"Removes every ReLU (do not do this).\"\"\"

        name = "drop-relu"
        needs = "canonical"

        def run(self, program):
            rewriter = vitc.Rewriter(program.module, self.name)
            for node in program.graph.find_nodes(op="call_function", target=torch.ops.aten.relu.default):
                rewriter.replace(node, node.args[0])
            rewriter.finish()
            return program
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from vitc.graph.program import Program


class Pass:
    """Base of all passes. Subclasses are frozen dataclasses and set at least `name`.

    `needs`: the stage the program must have reached; `gives`: the stage it is at afterwards (None: unchanged).
    `exact`: the pass does not change what the model computes, but for rounding; `compile` refuses where it does. A pass
    that costs accuracy on purpose sets it to False.
    `after`, `before`: names of passes that, where present, must stand earlier or later.
    The manager hands `run` a program whose graph is a private copy: changing it in place is safe.
    """

    name: ClassVar[str] = ""
    needs: ClassVar[str] = "captured"
    gives: ClassVar[str | None] = None
    after: ClassVar[tuple[str, ...]] = ()
    before: ClassVar[tuple[str, ...]] = ()
    exact: ClassVar[bool] = True

    def run(self, program: Program) -> Program:
        raise NotImplementedError(f"pass {self.name!r} has no run(program) method")
