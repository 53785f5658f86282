"""Which pass did what: the graph after each pass as a text file, and what two of them differ in.

Every line of a dump is one operator: its name, dtype and shape, the operator with its operands, and the module of yours
that it comes from. `vitc diff` shows the difference of any two.

    python examples/read_dumps.py [FOLDER]

prints a line for each pass, as

    08-drop-noops.txt                   as before
    09-fuse-attention.txt               5 lines gone, 7 lines new
    10-attention-4d.txt                 as before

and then what fuse-attention made of the first block.
"""

import difflib
import sys
import tempfile
from pathlib import Path

import torch
from torch import nn

import vitc


class Block(nn.Module):
    """Attention as papers write it, which is not how a kernel wants it."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = self.query(x) @ self.key(x).transpose(-2, -1) * x.shape[-1] ** -0.5
        return x + self.out(scores.softmax(-1) @ self.value(x))


def operators(dump: Path) -> list[str]:
    """The lines of a dump, without its heading."""
    return dump.read_text(encoding="utf-8").splitlines()[1:]


def changed(before: Path, after: Path) -> list[str]:
    """The lines that two dumps do not share, with - or + in front."""
    lines = difflib.unified_diff(operators(before), operators(after), lineterm="", n=0)
    return [line for line in lines if line.startswith(("-%", "+%", "-return", "+return"))]


def main(folder: Path) -> None:
    vitc.plan(Block().eval(), target="orin", example_inputs=torch.randn(2, 16, 32), dump=folder)
    dumps = sorted(folder.glob("[0-9][0-9]-*.txt"))
    for before, after in zip(dumps, dumps[1:], strict=False):
        lines = changed(before, after)
        gone = sum(line.startswith("-") for line in lines)
        print(f"{after.name:<36}{f'{gone} lines gone, {len(lines) - gone} lines new' if lines else 'as before'}")

    fused = next(i for i, dump in enumerate(dumps) if "fuse-attention" in dump.name)
    print("\nfuse-attention:")
    print("\n".join(changed(dumps[fused - 1], dumps[fused])))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
