"""What is read off a cubin's machine code."""

from __future__ import annotations

from pathlib import Path

import pytest

from vitc.errors import BuildError
from vitc.kernels import build, sass
from vitc.kernels.tiles import DEFAULT_TILE, SHORT_KEY_TILE
from vitc.kernels.variants import Tile, Variant

TEXT = """
        /*0000*/   LDC R1, c[0x0][0x28] ;
.L_x_3:
        /*0010*/   LDGSTS.E.BYPASS.128 [R1], [R2.64] ;
        /*0020*/   IMMA.16832.S8.S8 R4, R8.ROW, R9.COL, R4 ;
        /*0030*/   IMMA.16832.U8.S8 R4, R8.ROW, R9.COL, R4 ;
        /*0040*/   @P0 BRA `(.L_x_0) ;
{rescale}
.L_x_0:
        /*0060*/   MUFU.EX2 R1, R1 ;
        /*0070*/   @P1 BRA `(.L_x_3) ;
.L_x_5:
        /*0080*/   @P2 BRA `(.L_x_6) ;
        /*0090*/   LDGSTS.E.BYPASS.128 [R1], [R2.64] ;
.L_x_6:
        /*00a0*/   @P0 BRA `(.L_x_7) ;
        /*00b0*/   IMMA.16832.S8.S8 R4, R8.ROW, R9.COL, R4 ;
        /*00c0*/   IMMA.16832.U8.S8 R4, R8.ROW, R9.COL, R4 ;
        /*00d0*/   @P1 BRA `(.L_x_8) ;
{mask}
.L_x_8:
        /*00e0*/   MUFU.EX2 R1, R1 ;
        /*00f0*/   BRA `(.L_x_9) ;
.L_x_7:
        /*0100*/   IMMA.16832.S8.S8 R4, R8.ROW, R9.COL, R4 ;
        /*0108*/   @P1 BRA `(.L_x_9) ;
{mask}
.L_x_9:
        /*0110*/   @P2 EXIT ;
        /*0120*/   BRA `(.L_x_5) ;
"""
for _kind, _text in {"rescale": "FMUL R{i}, R{i}, R9", "mask": "FSEL R{i}, R{i}, -INF , !P1"}.items():
    _lines = "\n".join(f"        /*02{i}0*/   {_text.format(i=i)} ;" for i in range(8))
    TEXT = TEXT.replace(f"{{{_kind}}}", _lines)


def test_opcodes_are_read_with_and_without_a_predicate() -> None:
    text = "  /*0000*/   LDC R1, c[0x0][0x28] ;\n /*0010*/ @!P0 EXIT ;\n /*0020*/ IMMA.16832.S8.S8 R4, R8 ;\n"
    assert sass.opcodes(sass.parse(text)) == {"LDC": 1, "EXIT": 1, "IMMA.16832.S8.S8": 1}


def test_the_ways_through_the_loops() -> None:
    """A loop for whole tiles, and one for the last two, whose last turn brings nothing, and masks."""
    costs = sass.loop_costs(TEXT)
    assert costs.full.instructions == {
        "LDGSTS.E.BYPASS.128": 1, "BRA": 2, "IMMA.16832.S8.S8": 1, "IMMA.16832.U8.S8": 1, "MUFU.EX2": 1,
    }  # fmt: skip
    assert (costs.full.issued, costs.full.tensor_cycles, costs.full.exponential_cycles) == (6, 16, 8)
    assert costs.full.row().endswith("at most 100% of the tensor core")
    assert costs.rescaled.instructions == {**costs.full.instructions, "FMUL": 8}
    assert costs.last.instructions["FSEL"] == costs.tail.instructions["FSEL"] == 8
    assert (costs.last.tensor_cycles, costs.tail.tensor_cycles) == (16, 8)
    assert "LDGSTS.E.BYPASS.128" not in costs.last.instructions


@pytest.mark.parametrize(
    ("keys", "kinds"),
    [(1, ["tail"]), (64, ["last"]), (96, ["rescaled", "tail"]), (193, ["rescaled", "full", "full", "tail"])],
)
def test_the_tiles_of_a_number_of_keys(keys: int, kinds: list[str]) -> None:
    costs = sass.loop_costs(TEXT)
    tiles = [getattr(costs, kind) for kind in kinds]
    assert costs.attention(keys, 64).issued == sum(tile.issued for tile in tiles)


def test_a_loop_without_products() -> None:
    with pytest.raises(BuildError, match="no loop with tensor-core products"):
        sass.tile_cost("  /*0000*/   EXIT ;")


needs_tools = pytest.mark.skipif(
    not (build.find_tool("nvcc") and build.find_tool("nvdisasm")),
    reason="no nvcc or no nvdisasm (pip install 'vitc[nvcc]')",
)


def cost_of(head_dim: int, input: str, probability: str, tile: Tile) -> sass.TileCost:
    variant = Variant(head_dim, input, probability, "fp16", False, tile)
    return sass.tile_cost(sass.disassemble(build.build_cubin(variant, "sm_87").path))


@needs_tools
@pytest.mark.parametrize(("input", "probability"), [("int8", "int8"), ("int8", "fp16"), ("fp16", "fp16")])
@pytest.mark.parametrize("head_dim", [64, 80])
def test_the_products_and_exponentials_of_a_tile_are_those_of_its_shape(
    head_dim: int, input: str, probability: str
) -> None:
    """64 keys and 16 rows a warp: none is computed twice, and padding is all that is computed beyond."""
    cost = cost_of(head_dim, input, probability, DEFAULT_TILE)
    rate = {"int8": 512, "fp16": 256}
    products = 16 * 64 * head_dim
    sum_of_p = 16 * 64 * 8 // rate["int8"] if probability == "int8" else 0  # by a column of ones beside V
    assert cost.tensor_cycles == products // rate[input] + products // rate[probability] + sum_of_p
    # Beside P, for two rows: the decay of what was, or in INT8 the share of the tile.
    assert cost.instructions["MUFU.EX2"] == 16 * 64 // 32 + 2
    assert not {name for name in cost.instructions if name.startswith(("LDL", "STL", "I2F", "F2I"))}


@needs_tools
def test_short_tiles_cost_more_a_key() -> None:
    """Why choose_tile takes them only where nothing else fits."""
    for head_dim, probability in ((64, "int8"), (64, "fp16"), (128, "int8")):
        whole, half = (cost_of(head_dim, "int8", probability, tile).issued for tile in (DEFAULT_TILE, SHORT_KEY_TILE))
        assert 2 * half > 1.1 * whole


@needs_tools
def test_the_build_prints_what_a_tile_costs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    variant = Variant(64, "int8", "int8", "int8", False, DEFAULT_TILE)
    monkeypatch.setattr(build, "all_variants", lambda dims: [variant])
    assert build.main(["--arch", "sm_87", "--head-dim", "64", "--mix"]) == 0
    assert "| 64 | int8, P int8 | int8 | 64 × 64 |" in capsys.readouterr().out


def test_a_file_that_is_no_cubin(tmp_path: Path) -> None:
    if build.find_tool("nvdisasm") is None:
        pytest.skip("no nvdisasm (pip install 'vitc[nvcc]')")
    (tmp_path / "x.cubin").write_text("nothing")
    with pytest.raises(BuildError, match=r"nvdisasm .*x\.cubin failed with"):
        sass.disassemble(tmp_path / "x.cubin")
