"""The table of docs/kernel.md: what a warp of each variant issues, and how INT8 stands beside FP16 by that count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from vitc.kernels.sass import LoopCosts, TileCost
from vitc.kernels.variants import Variant

KEYS = (197, 577, 1024, 2304)
"""Keys of the last columns: ViT at 224 and 384 pixels, and round numbers."""
HEADER = (
    "| head dim | inputs | out | tile | registers | KiB shared | blocks/SM "
    "| instructions | tensor core | exponentials | integer pipe | "
) + " | ".join(f"{keys} keys" for keys in KEYS)


@dataclass(frozen=True)
class Mixed:
    """A compiled variant without a bias, and what its machine code costs."""

    variant: Variant
    registers: int
    blocks_per_sm: int
    costs: LoopCosts

    def cycles(self, keys: int) -> int:
        """At least so many for one warp's 16 rows and all keys; the last tile and the first rescaling included."""
        return limit(self.costs.attention(keys, self.variant.tile.key_rows))


def limit(cost: TileCost) -> int:
    """Cycles of the scheduler or of the busiest unit."""
    return max(cost.issued, cost.tensor_cycles, cost.exponential_cycles, cost.integer_cycles)


def table(rows: Sequence[Mixed]) -> str:
    """Markdown, one line for each variant; in brackets how many times faster than FP16 at the same shape it may be."""
    lines = [f"{HEADER} |", "|---" * (HEADER.count("|")) + "|"]
    for row in rows:
        v, full = row.variant, row.costs.full
        peers = [x for x in rows if x.variant == _as_fp16(v)]
        cells = [f"{row.cycles(n)}{_ratio(row, peers, n)}" for n in KEYS]
        tile = f"{v.tile.query_rows} × {v.tile.key_rows}"
        lines.append(
            f"| {v.head_dim} | {v.input}, P {v.probability} | {v.output} | {tile} | {row.registers} | "
            f"{v.shared_bytes // 1024} | {row.blocks_per_sm} | {full.issued} | {full.tensor_cycles} | "
            f"{full.exponential_cycles} | {full.integer_cycles} | {' | '.join(cells)} |"
        )
    return "\n".join(lines)


def _as_fp16(variant: Variant) -> Variant:
    return replace(variant, input="fp16", probability="fp16")


def _ratio(row: Mixed, peers: Sequence[Mixed], keys: int) -> str:
    if not peers or row.variant.input == "fp16":
        return ""
    return f" (×{peers[0].cycles(keys) / row.cycles(keys):.2f})"
