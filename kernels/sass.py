"""Reads the machine code of a cubin: which instructions it holds, and what one tile of keys costs.

    python -m vitc.kernels.build --arch sm_87 --head-dim 64 --default-tile --mix

A GPU's clock tells more, but this needs none: a warp scheduler issues one instruction a cycle, so a tile takes at least
as many cycles as it has instructions, as its tensor-core products keep the tensor core busy, and as its exponentials
keep the special function unit busy. The largest of the three is what to work on.
"""

from __future__ import annotations

import dataclasses
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from vitc.errors import BuildError, MissingDependencyError
from vitc.kernels.toolkit import find_tool

INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?P<predicate>@!?U?P\w+\s+)?(?P<name>[A-Z][A-Z0-9_.]*)(?P<rest>.*)")
LABEL = re.compile(r"(?P<label>\.L_x_\d+):")
TARGET = re.compile(r"\((?P<label>\.L_x_\d+)\)")
MASK = "FSEL"
"""What the masking of keys is made of: a block of it runs in the last tile only."""
MASK_AT_LEAST = 8
MMA_CYCLES = {"IMMA.16832": 8, "IMMA.16816": 4, "HMMA.16816": 8, "HMMA.1688": 4}
"""Of one scheduler's tensor core on sm_86 and sm_87: 512 INT8 or 256 FP16 multiply-adds a cycle, from the device's peak
(docs/targets.md). sm_75 multiplies in other shapes, sm_80 and sm_90 twice as fast."""
EXPONENTIAL_CYCLES = 8
"""Of one MUFU for 32 threads: 4 lanes a scheduler (CUDA C++ Programming Guide, "Arithmetic instructions")."""


@dataclasses.dataclass(frozen=True)
class Instruction:
    name: str
    predicated: bool = False
    label: str | None = None
    """Set on a label's own entry, which is no instruction."""
    target: str | None = None


@dataclasses.dataclass(frozen=True)
class TileCost:
    """What a warp does for a full tile of keys: instructions by name, and cycles at least, by unit."""

    instructions: Mapping[str, int]

    @property
    def issued(self) -> int:
        return sum(self.instructions.values())

    @property
    def tensor_cycles(self) -> int:
        return sum(
            cycles * count
            for shape, cycles in MMA_CYCLES.items()
            for name, count in self.instructions.items()
            if name.startswith(shape + ".")
        )

    @property
    def exponential_cycles(self) -> int:
        return EXPONENTIAL_CYCLES * self.instructions.get("MUFU.EX2", 0)

    def row(self) -> str:
        """One line: the three limits, and the share of the tensor core's rate that they leave."""
        limit = max(self.issued, self.tensor_cycles, self.exponential_cycles)
        return (
            f"{self.issued:4} instructions a tile and warp, {self.tensor_cycles:3} cycles of the tensor core, "
            f"{self.exponential_cycles:3} of exponentials: at most {self.tensor_cycles / limit:.0%} of the tensor core"
        )


def disassemble(cubin: Path) -> str:
    """The SASS of a cubin. Raises `MissingDependencyError` without nvdisasm, `BuildError` where it fails."""
    nvdisasm = find_tool("nvdisasm")
    if nvdisasm is None:
        raise MissingDependencyError(
            "looking into a cubin needs nvdisasm, which this CUDA toolkit lacks: pip install 'vitc[nvcc]'"
        )
    done = subprocess.run([nvdisasm, "-c", str(cubin)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"nvdisasm {cubin} failed with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


def parse(sass: str) -> list[Instruction]:
    """Instructions and labels in order."""
    found = []
    for line in sass.splitlines():
        label = LABEL.match(line.strip())
        instruction = INSTRUCTION.search(line)
        if label:
            found.append(Instruction("", label=label["label"]))
        elif instruction:
            target = TARGET.search(instruction["rest"])
            predicated = instruction["predicate"] is not None or "P" in instruction["rest"].split("`")[0]
            found.append(Instruction(instruction["name"], predicated, target=target["label"] if target else None))
    return found


def opcodes(code: Sequence[Instruction]) -> dict[str, int]:
    """How often each instruction ("IMMA.16832.S8.S8") stands there."""
    found: dict[str, int] = {}
    for instruction in code:
        if instruction.label is None:
            found[instruction.name] = found.get(instruction.name, 0) + 1
    return found


def tile_cost(sass: str) -> TileCost:
    """What a full tile of keys costs a warp of a variant without a bias. Raises `BuildError` where no loop multiplies.

    The loop holds two ways through it, for a full tile and for a last one of few keys, parted by a branch that is
    always taken; the way with the more products is the full tile's.
    """
    code = parse(sass)
    loop = max(_loops(code), key=_products, default=[])
    if not _products(loop):
        raise BuildError("the SASS has no loop with tensor-core products: it is no attention kernel's")
    ways: list[list[Instruction]] = [[]]
    for instruction in loop:
        ways[-1].append(instruction)
        if instruction.name == "BRA" and not instruction.predicated:
            ways.append([])
    full = max(ways, key=_products)
    return TileCost(opcodes([i for block in _blocks(full) if not _masks(block) for i in block]))


def _products(code: Sequence[Instruction]) -> int:
    return sum(i.name.startswith(("IMMA", "HMMA")) for i in code)


def _loops(code: Sequence[Instruction]) -> list[Sequence[Instruction]]:
    at = {i.label: n for n, i in enumerate(code) if i.label is not None}
    return [code[at[i.target] : n + 1] for n, i in enumerate(code) if i.target in at and at[i.target] < n]


def _blocks(code: Sequence[Instruction]) -> list[list[Instruction]]:
    """Parted where a branch leaves or a label enters."""
    blocks: list[list[Instruction]] = [[]]
    for instruction in code:
        if instruction.label is not None:
            blocks.append([])
        blocks[-1].append(instruction)
        if instruction.name == "BRA":
            blocks.append([])
    return blocks


def _masks(block: Sequence[Instruction]) -> bool:
    return sum(i.name == MASK for i in block) >= MASK_AT_LEAST
