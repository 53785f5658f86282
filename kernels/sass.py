"""Reads the machine code of a cubin: which instructions it holds, and what one tile of keys costs.

    python -m vitc.kernels.build --arch sm_87 --head-dim 64 --default-tile --mix

A GPU's clock tells more, but this needs none: a warp scheduler issues one instruction a cycle, so a tile takes at least
as many cycles as it has instructions, as its tensor-core products keep the tensor core busy, and as its exponentials
keep the special function unit busy. The largest of the three is what to work on.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vitc.errors import BuildError, MissingDependencyError
from vitc.kernels.toolkit import find_tool

INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?P<predicate>@!?U?P\w+\s+)?(?P<name>[A-Z][A-Z0-9_.]*)(?P<rest>.*)")
LABEL = re.compile(r"(?P<label>\.L_x_\d+):")
TARGET = re.compile(r"\((?P<label>\.L_x_\d+)\)")
RARELY = {"FSEL": "mask", "FMUL": "rescale", "FADD": "steep"}
"""What a stretch of code that few tiles pass is made of: masks, sums scaled to another maximum, and the exact
difference of scores that steep factors ask for (cuda/attention.cuh)."""
RARELY_AT_LEAST = 8
MMA_CYCLES = {"IMMA.16832": 8, "IMMA.16816": 4, "HMMA.16816": 8, "HMMA.1688": 4}
"""Of one scheduler's tensor core on sm_86 and sm_87: 512 INT8 or 256 FP16 multiply-adds a cycle, from the device's peak
(docs/targets.md). sm_75 multiplies in other shapes, sm_80 and sm_90 twice as fast."""
EXPONENTIAL_CYCLES = 8
"""Of one MUFU for 32 threads: 4 lanes a scheduler (CUDA C++ Programming Guide, "Arithmetic instructions")."""


INTEGER_CYCLES = 2
INTEGER = frozenset(
    ("FMNMX", "IMNMX", "FSETP", "ISETP", "FSEL", "SEL", "PRMT", "LOP3", "IADD3", "LEA", "SHF", "F2FP", "VOTE", "PLOP3")
)
"""What the pipe for integers, comparisons and conversions takes: 16 lanes a scheduler (the same table). MOV and IMAD
may go elsewhere."""


@dataclass(frozen=True)
class Instruction:
    name: str
    predicated: bool = False
    label: str | None = None
    """Set on a label's own entry, which is no instruction."""
    target: str | None = None


@dataclass(frozen=True)
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

    @property
    def integer_cycles(self) -> int:
        return INTEGER_CYCLES * sum(count for name, count in self.instructions.items() if name.split(".")[0] in INTEGER)

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


@dataclass(frozen=True)
class LoopCosts:
    """What the ways through the loop over the keys cost a warp of a variant without a bias."""

    full: TileCost
    """A whole tile, while the next one is brought."""
    rescaled: TileCost
    """The same where a row's sums are scaled to another maximum: an INT8 tile after the first that is far above it, and
    the first; in FP16 every tile."""
    last: TileCost
    """A last tile of which more than half is keys."""
    tail: TileCost
    """A last tile with at most 32 keys."""

    def attention(self, keys: int, key_rows: int) -> TileCost:
        """All tiles of `keys` keys; the first rescales."""
        whole, left = divmod(keys - 1, key_rows)
        last = self.tail if left + 1 <= 32 < key_rows else self.last
        tiles = [last] if whole == 0 else [self.rescaled, *[self.full] * (whole - 1), last]
        total: dict[str, int] = {}
        for tile in tiles:
            for name, count in tile.instructions.items():
                total[name] = total.get(name, 0) + count
        return TileCost(total)


def tile_cost(sass: str) -> TileCost:
    """What a full tile of keys costs a warp. Raises `BuildError` where no loop multiplies."""
    return loop_costs(sass).full


def loop_costs(sass: str) -> LoopCosts:
    """The ways through the loop over the keys. Raises `BuildError` where no loop multiplies.

    A full tile's way is the one that multiplies most and brings most, with the fewest instructions; a last tile's is
    one that masks and brings nothing.
    """
    on: dict[_Way, TileCost] = {}
    out: dict[_Way, TileCost] = {}
    for loop in _loops(parse(sass)):
        _follow(loop, on, out)
    if not any(way.products for way in on):
        raise BuildError("the SASS has no loop with tensor-core products: it is no attention kernel's")
    products, copies = max((way.products, way.copies) for way in on)
    fewest = min(way.products for way in out if way.products)
    full = _cheapest(on, products, copies)
    assert full is not None  # `on` has it
    return LoopCosts(
        full=full,
        rescaled=_cheapest(on, products, copies, "rescale") or full,
        last=_cheapest(out, products, 0, "mask") or full,
        tail=_cheapest(out, fewest, 0, "mask") or full,
    )


def _cheapest(ways: Mapping[_Way, TileCost], products: int, copies: int, kind: str | None = None) -> TileCost | None:
    """The fewest instructions of the ways that multiply and bring so much, and pass code of that kind."""
    fitting = [
        cost
        for way, cost in ways.items()
        if (way.products, way.copies) == (products, copies) and (kind is None or kind in way.rarely)
    ]
    return min(fitting, key=lambda cost: cost.issued, default=None)


def _products(code: Sequence[Instruction]) -> int:
    return sum(i.name.startswith(("IMMA", "HMMA")) for i in code)


def _loops(code: Sequence[Instruction]) -> list[Sequence[Instruction]]:
    at = {i.label: n for n, i in enumerate(code) if i.label is not None}
    return [code[at[i.target] : n + 1] for n, i in enumerate(code) if i.target in at and at[i.target] < n]


@dataclass(frozen=True)
class _Way:
    """What tells one way through the loop from another."""

    products: int = 0
    copies: int = 0
    rarely: frozenset[str] = frozenset()


def _follow(loop: Sequence[Instruction], on: dict[_Way, TileCost], out: dict[_Way, TileCost]) -> None:
    """Adds the cheapest way of each kind from the loop's first instruction: `on` to the next turn, and `out` of it."""
    blocks = _blocks(loop)
    at = {block[0].label: n for n, block in enumerate(blocks) if block[0].label is not None}
    reached: list[dict[_Way, TileCost]] = [{} for _ in blocks]
    reached[0][_Way()] = TileCost({})
    for n, block in enumerate(blocks):
        jump, falls = _leaves(block[-1])
        followers = [at.get(jump, len(blocks))] if jump is not None else []
        followers += [n + 1] if falls else []
        for way, cost in reached[n].items():
            beyond, paid = _beyond(way, block), _plus(cost, block)
            for follower in followers:
                if 0 < follower <= n:
                    continue  # an inner loop
                target = on if follower == 0 else out if follower >= len(blocks) else reached[follower]
                if beyond not in target or paid.issued < target[beyond].issued:
                    target[beyond] = paid


def _leaves(last: Instruction) -> tuple[str | None, bool]:
    """Where a block may jump to, and whether it may also go on with the next. BRA.DIV is for warps that have parted."""
    if last.name in ("BRA", "CALL.REL.NOINC"):
        return last.target, last.predicated
    return ("the end", last.predicated) if last.name == "EXIT" else (None, True)


def _beyond(way: _Way, block: Sequence[Instruction]) -> _Way:
    copies = sum(i.name.split(".")[0] in ("LDGSTS", "LDG", "STS") for i in block)
    return _Way(way.products + _products(block), way.copies + copies, way.rarely | _rarely(block))


def _plus(cost: TileCost, block: Sequence[Instruction]) -> TileCost:
    total = dict(cost.instructions)
    for name, count in opcodes(block).items():
        total[name] = total.get(name, 0) + count
    return TileCost(total)


def _rarely(block: Sequence[Instruction]) -> frozenset[str]:
    if _products(block) or sum(i.name == "MUFU.EX2" for i in block) >= RARELY_AT_LEAST:
        return frozenset()
    names = [i.name for i in block]
    return frozenset(kind for name, kind in RARELY.items() if names.count(name) >= RARELY_AT_LEAST)


def _blocks(code: Sequence[Instruction]) -> list[list[Instruction]]:
    """Parted where a branch leaves or a label enters."""
    blocks: list[list[Instruction]] = [[]]
    for instruction in code:
        if instruction.label is not None and blocks[-1]:
            blocks.append([])
        blocks[-1].append(instruction)
        if instruction.name in ("BRA", "EXIT", "CALL.REL.NOINC"):
            blocks.append([])
    return [block for block in blocks if block]
