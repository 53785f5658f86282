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
        /*0020*/   @!P0 BRA `(.L_x_1) ;
        /*0030*/   IMMA.16832.S8.S8 R4, R8.ROW, R9.COL, R4 ;
        /*0040*/   IMMA.16832.U8.S8 R4, R8.ROW, R9.COL, R4 ;
        /*0050*/   @P0 BRA `(.L_x_0) ;
{masks}
.L_x_0:
        /*0060*/   MUFU.EX2 R1, R1 ;
        /*0070*/   BRA `(.L_x_2) ;
.L_x_1:
        /*0080*/   IMMA.16832.S8.S8 R4, R8.ROW, R9.COL, R4 ;
.L_x_2:
        /*0090*/   @P1 BRA `(.L_x_3) ;
        /*00a0*/   EXIT ;
""".replace("{masks}", "\n".join(f"        /*01{i}0*/   FSEL R{i}, R{i}, -INF , !P1 ;" for i in range(8)))


def test_opcodes_are_read_with_and_without_a_predicate() -> None:
    text = "  /*0000*/   LDC R1, c[0x0][0x28] ;\n /*0010*/ @!P0 EXIT ;\n /*0020*/ IMMA.16832.S8.S8 R4, R8 ;\n"
    assert sass.opcodes(sass.parse(text)) == {"LDC": 1, "EXIT": 1, "IMMA.16832.S8.S8": 1}


def test_a_full_tile_is_the_way_with_the_more_products_without_its_mask() -> None:
    cost = sass.tile_cost(TEXT)
    assert cost.instructions == {
        "LDGSTS.E.BYPASS.128": 1, "BRA": 3, "IMMA.16832.S8.S8": 1, "IMMA.16832.U8.S8": 1, "MUFU.EX2": 1,
    }  # fmt: skip
    assert (cost.issued, cost.tensor_cycles, cost.exponential_cycles) == (7, 16, 8)
    assert cost.row().endswith("at most 100% of the tensor core")


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
    assert cost.tensor_cycles == products // rate[input] + products // rate[probability]
    rows = 2 if probability == "int8" else 1  # beside P: the decay of what was, and in INT8 the share of the tile
    assert cost.instructions["MUFU.EX2"] == 16 * 64 // 32 + 2 * rows
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
    assert "256 cycles of the tensor core, 288 of exponentials: at most" in capsys.readouterr().out


def test_a_file_that_is_no_cubin(tmp_path: Path) -> None:
    if build.find_tool("nvdisasm") is None:
        pytest.skip("no nvdisasm (pip install 'vitc[nvcc]')")
    (tmp_path / "x.cubin").write_text("nothing")
    with pytest.raises(BuildError, match=r"nvdisasm .*x\.cubin failed with"):
        sass.disassemble(tmp_path / "x.cubin")
