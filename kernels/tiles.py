"""Which tile the kernel takes.

The tiles are few, so that a plugin can hold them all. None has been timed: this table is made from occupancy (the
registers that ptxas reports and the shared memory that a tile needs) and from the instructions that a tile issues
(`python -m vitc.kernels.build --mix`), see docs/kernel.md; not by measurement.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from vitc.errors import InputError, unknown
from vitc.kernels.fields import AttentionFields
from vitc.kernels.variants import Tile, Variant, shared_bytes, variant_of

DEFAULT_TILE = Tile(64, 64, 4)
SHORT_QUERY_TILE = Tile(32, 64, 2)
"""Twice the blocks: for grids that would leave multiprocessors idle."""
SHORT_KEY_TILE = Tile(64, 32, 4)
"""Half the shared memory for K and V, for where the others do not fit."""
TILES = (DEFAULT_TILE, SHORT_QUERY_TILE, SHORT_KEY_TILE)


@dataclass(frozen=True)
class SmLimits:
    """What an SM and a block of a compute capability have (CUDA C++ Programming Guide, "Technical specifications")."""

    max_warps: int
    max_blocks: int
    shared_per_sm: int
    shared_per_block: int
    reserved_shared: int
    """Shared memory that the system takes of each block."""


KIB = 1024
REGISTERS_PER_SM = 65536
REGISTERS_PER_THREAD = 255
REGISTER_UNIT = 256
"""Registers are handed out to warps in units of this many."""
SM_LIMITS = {
    "sm_75": SmLimits(32, 16, 64 * KIB, 64 * KIB, 0),
    "sm_80": SmLimits(64, 32, 164 * KIB, 163 * KIB, KIB),
    "sm_86": SmLimits(48, 16, 100 * KIB, 99 * KIB, KIB),
    "sm_87": SmLimits(48, 16, 164 * KIB, 163 * KIB, KIB),
    "sm_89": SmLimits(48, 24, 100 * KIB, 99 * KIB, KIB),
    "sm_90": SmLimits(64, 32, 228 * KIB, 227 * KIB, KIB),
    "sm_120": SmLimits(48, 24, 100 * KIB, 99 * KIB, KIB),
}


def blocks_per_sm(arch: str, threads: int, registers: int, shared: int) -> int:
    """How many blocks an SM holds at once."""
    if arch not in SM_LIMITS:
        raise InputError(unknown("CUDA architecture", arch, SM_LIMITS))
    limits = SM_LIMITS[arch]
    warps = threads // 32
    registers_per_warp = math.ceil(registers * 32 / REGISTER_UNIT) * REGISTER_UNIT
    by_registers = REGISTERS_PER_SM // registers_per_warp // warps
    by_shared = limits.shared_per_sm // (shared + limits.reserved_shared)
    return min(by_registers, by_shared, limits.max_warps // warps, limits.max_blocks)


def fits(arch: str, head_dim: int, input: str, output: str, tile: Tile) -> bool:
    """Whether a block's shared memory holds the tile."""
    if arch not in SM_LIMITS:
        raise InputError(unknown("CUDA architecture", arch, SM_LIMITS))
    return shared_bytes(head_dim, input, output, tile) <= SM_LIMITS[arch].shared_per_block


@dataclass(frozen=True)
class TileChoice:
    """A tile, and why it was taken: one clause for a report."""

    tile: Tile
    reason: str


def choose_tile(
    arch: str, sm_count: int, head_dim: int, input: str, output: str, queries: int, heads: int
) -> TileChoice:
    """The tile for one shape, `heads` being batch times heads: what `tile_q` and `tile_k` should say.

    Short query tiles where the whole grid would not give each multiprocessor a block; short key tiles only where
    nothing else fits: they issue a fifth to a third more instructions for a key, and a last tile of 64 with at most 32
    keys costs no more than one of 32 (docs/kernel.md).
    """
    if not fits(arch, head_dim, input, output, DEFAULT_TILE):
        return TileChoice(SHORT_KEY_TILE, f"tiles of 64 keys do not fit the shared memory of {arch}")
    blocks = math.ceil(queries / DEFAULT_TILE.query_rows) * heads
    if blocks < sm_count:
        return TileChoice(SHORT_QUERY_TILE, f"tiles of 64 queries make {blocks} blocks for {sm_count} multiprocessors")
    return TileChoice(DEFAULT_TILE, f"the default: {blocks} blocks for {sm_count} multiprocessors")


def resolve_tile(arch: str, head_dim: int, input: str, output: str, tile_q: int, tile_k: int) -> Tile:
    """The kernel's tile for a node's hint: that very one if it exists and fits, else the default, else the smallest."""
    hinted = [tile for tile in TILES if (tile.query_rows, tile.key_rows) == (tile_q, tile_k)]
    for tile in (*hinted, DEFAULT_TILE):
        if fits(arch, head_dim, input, output, tile):
            return tile
    return SHORT_KEY_TILE


def kernel_variant(fields: AttentionFields, arch: str) -> Variant:
    """The variant that serves a node on `arch`. Raises `InputError` where the kernel has none."""
    kinds = ("int8" if fields.int8_in else "fp16", "int8" if fields.int8_out else "fp16")
    return variant_of(fields, resolve_tile(arch, fields.head_dim, *kinds, fields.tile_q, fields.tile_k))
