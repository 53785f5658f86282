"""cubins of the kernel: built for every architecture, without spills, on the tensor cores."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
from pathlib import Path

import pytest

from vitc.errors import BuildError, InputError, MissingDependencyError
from vitc.kernels import build, sass, toolkit
from vitc.kernels.tiles import (
    DEFAULT_TILE,
    SHORT_KEY_TILE,
    SHORT_QUERY_TILE,
    SM_LIMITS,
    TILES,
    blocks_per_sm,
    choose_tile,
    fits,
    resolve_tile,
)
from vitc.kernels.variants import HEAD_DIMS, Tile, Variant, shared_bytes

VIT_INT8 = Variant(64, "int8", "int8", "int8", False, DEFAULT_TILE)
VIT_HALF_PV = dataclasses.replace(VIT_INT8, probability="fp16", output="fp16")
VIT_HALF = dataclasses.replace(VIT_HALF_PV, input="fp16")
ARCHES = ("sm_75", "sm_80", "sm_86", "sm_87", "sm_89", "sm_90", "sm_120")

needs_nvcc = pytest.mark.skipif(build.find_tool("nvcc") is None, reason="no nvcc: cubins are not built")
needs_nvdisasm = pytest.mark.skipif(
    build.find_tool("nvdisasm") is None,
    reason="no nvdisasm (pip install 'vitc[nvcc]'): SASS is not read",
)


@needs_nvcc
@pytest.mark.parametrize("arch", ARCHES)
def test_every_architecture(arch: str) -> None:
    cubin = build.build_cubin(VIT_INT8, arch)
    assert cubin.path.read_bytes()[:4] == b"\x7fELF"
    assert (cubin.spill_bytes, cubin.stack_bytes) == (0, 0)
    assert cubin.blocks_per_sm >= 3
    print(cubin.row())


@needs_nvcc
@pytest.mark.slow
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize("arch", ["sm_75", "sm_87"])
def test_every_head_dim_without_spills(arch: str, head_dim: int) -> None:
    """The hungriest (bias, FP16 out) of each kind, at the tile the table takes for it."""
    for kind in (VIT_INT8, VIT_HALF_PV, VIT_HALF):
        tile = resolve_tile(arch, head_dim, kind.input, "fp16", 64, 64)
        cubin = build.build_cubin(
            dataclasses.replace(kind, head_dim=head_dim, output="fp16", has_bias=True, tile=tile), arch
        )
        print(cubin.row())


@needs_nvcc
@needs_nvdisasm
@pytest.mark.parametrize(("variant", "unit"), [(VIT_INT8, "IMMA"), (VIT_HALF_PV, "HMMA"), (VIT_HALF, "HMMA")])
def test_sass_of_orin_uses_the_tensor_cores_and_no_local_memory(variant: Variant, unit: str) -> None:
    cubin = build.build_cubin(variant, "sm_87")
    build.check_sass(cubin)
    found = sass.opcodes(sass.parse(sass.disassemble(cubin.path)))
    assert any(name.startswith(unit) for name in found)
    assert any(name.startswith("LDGSTS") for name in found)  # asynchronous copies
    assert not any(name.startswith(("LDL", "STL")) for name in found)
    if variant is VIT_INT8:
        assert any(name.startswith("IMMA.16832.S8.S8") for name in found)  # Q.K
        assert any(name.startswith("IMMA.16832.U8.S8") for name in found)  # P.V
        assert not any(name.startswith("I2F") for name in found if "RP" not in name)  # the magic number instead


@needs_nvcc
@needs_nvdisasm
def test_sass_that_lacks_what_it_must_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    cubin = build.build_cubin(VIT_HALF, "sm_87")
    with pytest.raises(BuildError, match="holds no IMMA: the tensor cores are not used"):
        build.check_sass(dataclasses.replace(cubin, variant=VIT_INT8))
    monkeypatch.setattr(build, "disassemble", lambda _: "/*0010*/ HMMA.16816.F32 R0 ;\n/*0020*/ @P0 STL [R1], R2 ;")
    with pytest.raises(BuildError, match="goes through local memory: STL"):
        build.check_sass(cubin)


def test_spills_are_refused() -> None:
    log = "16 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads\nUsed 128 registers, used 1 barriers"
    cubin = build._read_log(VIT_INT8, "sm_87", Path("x.cubin"), log)
    with pytest.raises(BuildError, match="spills: 16 bytes of registers, 16 bytes of stack. Take a smaller tile"):
        build.check(cubin)
    with pytest.raises(BuildError, match="needs more registers than an SM has: 600"):
        build.check(dataclasses.replace(cubin, stack_bytes=0, spill_bytes=0, registers=600))
    with pytest.raises(BuildError, match="did not report registers and spills"):
        build._read_log(VIT_INT8, "sm_87", Path("x.cubin"), "ptxas info : nothing")


def test_refusals(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown CUDA architecture 'sm_70'.*did you mean"):
        build.build_cubin(VIT_INT8, "sm_70")
    big = dataclasses.replace(VIT_HALF, head_dim=128)
    with pytest.raises(InputError, match="81920 bytes of shared memory and a block of sm_75 has 65536: take a smaller"):
        build.build_cubin(big, "sm_75")
    with pytest.raises(InputError, match="no head dimension 48; it has 32, 64, 72, 80, 96, 128"):
        dataclasses.replace(VIT_INT8, head_dim=48)
    with pytest.raises(InputError, match="pv='int8' needs INT8 inputs"):
        dataclasses.replace(VIT_INT8, input="fp16")
    monkeypatch.setattr(build, "find_tool", lambda name: None)
    monkeypatch.setattr(sass, "find_tool", lambda name: None)
    with pytest.raises(MissingDependencyError, match="needs nvcc, which is neither in CUDA_HOME"):
        build.build_cubin(VIT_INT8, "sm_87", cache=tmp_path)
    with pytest.raises(MissingDependencyError, match=r"needs nvdisasm.*pip install 'vitc\[nvcc\]'"):
        sass.disassemble(tmp_path / "x")


@pytest.mark.skipif(importlib.util.find_spec("nvidia") is None, reason="no CUDA packages (pip install 'vitc[nvcc]')")
def test_the_packages_compiler_serves_where_no_toolkit_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.setattr(toolkit, "SYSTEM_TOOLKIT", tmp_path / "nowhere")
    monkeypatch.setattr(toolkit.shutil, "which", lambda name: None)
    nvcc = build.find_tool("nvcc")
    assert nvcc is not None
    assert "site-packages" in nvcc
    build.check_sass(build.build_cubin(VIT_INT8, "sm_87", cache=tmp_path))


@needs_nvcc
def test_a_failing_compiler_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "--no-such-flag"))
    with pytest.raises(BuildError, match="no-such-flag"):
        build.build_cubin(VIT_INT8, "sm_87", cache=tmp_path)


@needs_nvcc
def test_command_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "all_variants", lambda dims: [VIT_INT8, dataclasses.replace(VIT_INT8, tile=TILES[1])])
    assert build.main(["--arch", "sm_87", "--head-dim", "64", "--default-tile"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert "d64_int8_pv-int8_int8_64x64x4" in printed
    assert "0 B spilled" in printed


def test_all_variants_are_all() -> None:
    variants = list(build.all_variants())
    assert len(variants) == len(set(variants)) == len(HEAD_DIMS) * 3 * 2 * 2 * len(TILES)
    assert len({v.name for v in variants}) == len(variants)


def test_occupancy() -> None:
    # 128 threads of 128 registers fill the register file four times; 20 KiB of shared memory would allow seven.
    assert blocks_per_sm("sm_87", 128, 128, 20480) == 4
    assert blocks_per_sm("sm_87", 128, 64, 81920) == 2
    assert blocks_per_sm("sm_86", 128, 64, 40960) == 2
    assert blocks_per_sm("sm_87", 128, 16, 1024) == 12
    with pytest.raises(InputError, match="unknown CUDA architecture"):
        blocks_per_sm("sm_52", 128, 64, 0)


def test_a_tile_that_fits_exists_everywhere() -> None:
    for arch, dim, input_, output in itertools.product(SM_LIMITS, HEAD_DIMS, ("int8", "fp16"), ("int8", "fp16")):
        assert fits(arch, dim, input_, output, resolve_tile(arch, dim, input_, output, 64, 64))
    with pytest.raises(InputError, match="unknown CUDA architecture"):
        fits("sm_52", 64, "int8", "int8", DEFAULT_TILE)


@pytest.mark.parametrize(
    ("changes", "tile", "reason"),
    [
        ({"queries": 577}, DEFAULT_TILE, "the default: 120 blocks for 16 multiprocessors"),
        ({}, DEFAULT_TILE, "the default: 48 blocks for 16 multiprocessors"),
        ({"sm_count": 132}, SHORT_QUERY_TILE, "tiles of 64 queries make 48 blocks for 132 multiprocessors"),
        (
            {"arch": "sm_75", "head_dim": 128, "input": "fp16", "output": "fp16"},
            SHORT_KEY_TILE,
            "tiles of 64 keys do not fit the shared memory of sm_75",
        ),
    ],
)
def test_the_choice_of_tile(changes: dict[str, object], tile: Tile, reason: str) -> None:
    vit_b = {"arch": "sm_87", "sm_count": 16, "head_dim": 64, "input": "int8", "output": "int8"}
    shape = {"queries": 197, "heads": 12}
    choice = choose_tile(**{**vit_b, **shape, **changes})  # type: ignore[arg-type]
    assert (choice.tile, choice.reason) == (tile, reason)


def test_hints() -> None:
    assert resolve_tile("sm_87", 64, "int8", "int8", 32, 64) == SHORT_QUERY_TILE
    assert resolve_tile("sm_87", 64, "int8", "int8", 48, 17) == DEFAULT_TILE
    assert resolve_tile("sm_75", 128, "fp16", "fp16", 64, 64) == SHORT_KEY_TILE


def test_shared_memory_follows_the_padding() -> None:
    assert shared_bytes(64, "int8", "int8", DEFAULT_TILE) == 64 * 64 + 4 * 64 * 64
    assert shared_bytes(72, "int8", "fp16", Tile(32, 64, 2)) == 32 * 160 + 4 * 64 * 80
