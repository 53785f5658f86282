"""A prediction, by operation, by block and in total, as numbers, rows and text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from vitc.cost.records import OpCost, block_of

Bound = Literal["compute", "memory", "launch", "fused"]


@dataclass(frozen=True)
class OpPrediction:
    """One record's share of a prediction.

    cost:       the record.
    compute_ms: what its arithmetic takes.
    memory_ms:  what its bytes take.
    launch_ms:  what starting its kernel takes.
    bound:      which of them decides; 'fused' runs in an earlier record's kernel.
    """

    cost: OpCost
    compute_ms: float
    memory_ms: float
    launch_ms: float
    bound: Bound

    @property
    def ms(self) -> float:
        return self.launch_ms + max(self.compute_ms, self.memory_ms)


@dataclass(frozen=True)
class BlockPrediction:
    """The sum over the records of one block of the model."""

    name: str
    ms: float
    flops: float
    weight_bytes: float
    kernels: int
    bound: Bound  # where most of the time goes


@dataclass(frozen=True)
class Prediction:
    """What a model should take on a target. `floor_ms` is the arithmetic limit, at 100 % of peak."""

    target: str
    ops: tuple[OpPrediction, ...]
    floor_ms: float

    @property
    def ms(self) -> float:
        return sum(op.ms for op in self.ops)

    @property
    def flops(self) -> float:
        return sum(op.cost.flops for op in self.ops)

    @property
    def weight_bytes(self) -> float:
        return sum(op.cost.weight_bytes for op in self.ops)

    @property
    def kernels(self) -> int:
        return sum(op.bound != "fused" for op in self.ops)

    @property
    def blocks(self) -> tuple[BlockPrediction, ...]:
        """One entry for each block, in the order in which the blocks first run."""
        by_block: dict[str, list[OpPrediction]] = {}
        for op in self.ops:
            by_block.setdefault(block_of(op.cost.module), []).append(op)
        return tuple(_block(name, ops) for name, ops in by_block.items())

    def rows(self) -> list[dict[str, Any]]:
        """One dict a record: the fields of its `OpCost`, its block, compute/memory/launch/total ms, bound."""
        return [
            {
                **asdict(op.cost),
                "block": block_of(op.cost.module),
                "compute_ms": op.compute_ms,
                "memory_ms": op.memory_ms,
                "launch_ms": op.launch_ms,
                "ms": op.ms,
                "bound": op.bound,
            }
            for op in self.ops
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: the totals, the blocks and the rows."""
        return {
            "target": self.target,
            "ms": self.ms,
            "floor_ms": self.floor_ms,
            "flops": self.flops,
            "weight_bytes": self.weight_bytes,
            "kernels": self.kernels,
            "blocks": [asdict(block) for block in self.blocks],
            "ops": self.rows(),
        }

    def text(self) -> str:
        """A table for a terminal: one line a block, then the total and the floor."""
        header = ("block", "ms", "GFLOP", "weights MB", "kernels", "bound by")
        lines = [(b.name, b.ms, b.flops, b.weight_bytes, b.kernels, b.bound) for b in self.blocks]
        total = (
            f"total on {self.target}",
            self.ms,
            self.flops,
            self.weight_bytes,
            self.kernels,
            _bound(self.ops),
        )
        cells = [header, *(_cells(line) for line in (*lines, total))]
        widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
        table = ["  ".join(_aligned(row, widths)).rstrip() for row in cells]
        return "\n".join([*table, f"floor {self.floor_ms:.2f} ms (every operation at 100 % of peak)"])


def block_lines(blocks: Iterable[BlockPrediction]) -> list[str]:
    """One line per block, equal neighbours together: "blocks.0 … blocks.11  0.075 ms each, 7 kernels, bound by
    launch"."""
    rows: list[tuple[str, str, str]] = []
    for block in blocks:
        kernels = f"{block.kernels} kernel{'' if block.kernels == 1 else 's'}, bound by {block.bound}"
        ms = f"{block.ms:.3f} ms"
        if rows and rows[-1][1].removesuffix(" each") == ms and rows[-1][2] == kernels:
            rows[-1] = (f"{rows[-1][0].split(' … ')[0]} … {block.name}", f"{ms} each", kernels)
        else:
            rows.append((block.name, ms, kernels))
    width = max((len(name) for name, _, _ in rows), default=0)
    return [f"{name:<{width}}  {ms}, {kernels}" for name, ms, kernels in rows]


def _block(name: str, ops: list[OpPrediction]) -> BlockPrediction:
    return BlockPrediction(
        name=name,
        ms=sum(op.ms for op in ops),
        flops=sum(op.cost.flops for op in ops),
        weight_bytes=sum(op.cost.weight_bytes for op in ops),
        kernels=sum(op.bound != "fused" for op in ops),
        bound=_bound(ops),
    )


def _bound(ops: Iterable[OpPrediction]) -> Bound:
    spent: dict[Bound, float] = {}
    for op in ops:
        spent[op.bound] = spent.get(op.bound, 0.0) + op.ms
    return max(spent, key=lambda bound: spent[bound]) if spent else "fused"


def _cells(line: tuple[str, float, float, float, int, str]) -> tuple[str, ...]:
    name, ms, flops, weight_bytes, kernels, bound = line
    return (name, f"{ms:.3f}", f"{flops / 1e9:.2f}", f"{weight_bytes / 1e6:.2f}", str(kernels), bound)


def _aligned(row: tuple[str, ...], widths: list[int]) -> list[str]:
    first, *figures, last = zip(row, widths, strict=True)
    return [first[0].ljust(first[1]), *(text.rjust(width) for text, width in figures), last[0].ljust(last[1])]
