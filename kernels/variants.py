"""The variants of the attention kernel: what one is compiled with, and which one serves a node.

A variant is a head dimension, the dtypes, a bias or none, and a tile. The compiler's macros, the cubin's name and the
shared memory it asks for all follow from it.
"""

from __future__ import annotations

from dataclasses import dataclass

from vitc.errors import InputError
from vitc.kernels.fields import AttentionFields

HEAD_DIMS = (32, 64, 72, 80, 96, 128)
"""72 is SigLIP so400m's, 80 ViT-H's, 96 some Swin's."""
ELEMENT_BYTES = {"int8": 1, "fp16": 2}
C_NAMES = {"int8": "kInt8", "fp16": "kHalf"}
ROWS_PER_WARP_GROUP = 16
"""Query rows of one tensor-core instruction; a warp takes one or more such groups."""


@dataclass(frozen=True)
class Tile:
    """query_rows x key_rows scores at a time, the rows shared out over `warps`."""

    query_rows: int
    key_rows: int
    warps: int


@dataclass(frozen=True)
class Variant:
    """One compilation of `cuda/attention.cu`. dtypes are "int8" or "fp16".

    head_dim:    D.
    input:       dtype of Q, K and V.
    probability: dtype of P where it meets V.
    output:      dtype of the result.
    has_bias:    scores get a bias.
    tile:        how many scores at a time.
    """

    head_dim: int
    input: str
    probability: str
    output: str
    has_bias: bool
    tile: Tile

    def __post_init__(self) -> None:
        if self.head_dim not in HEAD_DIMS:
            known = ", ".join(map(str, HEAD_DIMS))
            raise InputError(
                f"the attention kernel has no head dimension {self.head_dim}; it has {known}. "
                "Leave this attention to the engine, or pad its heads"
            )
        if self.input == "fp16" and self.probability == "int8":
            raise InputError("pv='int8' needs INT8 inputs; FP16 inputs take pv='fp16'")

    @property
    def name(self) -> str:
        """Unique, and fit for a file name: d64_int8_pv-int8_int8_64x64x4."""
        bias = "_bias" if self.has_bias else ""
        t = self.tile
        return (
            f"d{self.head_dim}_{self.input}_pv-{self.probability}_{self.output}{bias}"
            f"_{t.query_rows}x{t.key_rows}x{t.warps}"
        )

    @property
    def macros(self) -> tuple[str, ...]:
        """What attention.cu is compiled with."""
        return (
            f"-DVITC_HEAD_DIM={self.head_dim}",
            f"-DVITC_INPUT={C_NAMES[self.input]}",
            f"-DVITC_PROBABILITY={C_NAMES[self.probability]}",
            f"-DVITC_OUTPUT={C_NAMES[self.output]}",
            f"-DVITC_HAS_BIAS={str(self.has_bias).lower()}",
            f"-DVITC_QUERY_ROWS={self.tile.query_rows}",
            f"-DVITC_KEY_ROWS={self.tile.key_rows}",
            f"-DVITC_WARPS={self.tile.warps}",
        )

    @property
    def threads(self) -> int:
        return 32 * self.tile.warps

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block: `AttentionConfig::kSharedBytes` of cuda/config.h."""
        return shared_bytes(self.head_dim, self.input, self.output, self.tile)


def shared_bytes(head_dim: int, input: str, output: str, tile: Tile) -> int:
    """Q (later the output), and two stages of K and V, in rows of whole 16-byte chunks."""
    padded = -(-head_dim // 16) * 16
    row = padded * ELEMENT_BYTES[input]
    out_row = padded * ELEMENT_BYTES[output]
    return tile.query_rows * max(row, out_row) + 4 * tile.key_rows * row


def variant_of(fields: AttentionFields, tile: Tile) -> Variant:
    """The variant that computes a node with these fields. Raises `InputError` where the kernel has none."""
    return Variant(
        head_dim=fields.head_dim,
        input="int8" if fields.int8_in else "fp16",
        probability="int8" if fields.int8_in and fields.pv == "int8" else "fp16",
        output="int8" if fields.int8_out else "fp16",
        has_bias=bool(fields.has_bias),
        tile=tile,
    )
