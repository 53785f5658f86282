"""The C++ plugin: its generated header, and (with TENSORRT_ROOT) its compilation and its build side.

TENSORRT_ROOT names folders with TensorRT's public headers in include/, several separated as in PATH.
"""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from vitc.errors import BuildError
from vitc.kernels import build, generate_header, harness, reference
from vitc.kernels.fields import AttentionFields, attention_spec
from vitc.kernels.tiles import TILES

KERNELS = Path(generate_header.__file__).resolve().parent
ROOTS = [Path(p) for p in os.environ.get("TENSORRT_ROOT", "").split(os.pathsep) if p]
CUDA_INCLUDES = [
    folder
    for folder in (
        Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "include",
        Path(build.find_tool("nvcc") or "nvcc").resolve().parents[1] / "include",
    )
    if (folder / "cuda_runtime.h").is_file()
]

needs_tensorrt = pytest.mark.skipif(
    not ROOTS, reason="TENSORRT_ROOT is not set: the C++ plugin is not compiled against TensorRT's headers"
)
needs_cuda = pytest.mark.skipif(not CUDA_INCLUDES, reason="no CUDA headers: the C++ plugin is not compiled")
TYPE_CODES = {"string": 6, "int": 5, "float": 1, "floats": 1}
"""PluginFieldType: kCHAR, kINT32, kFLOAT32 (several have no type of their own)."""


@pytest.mark.slow
@pytest.mark.skipif(build.find_tool("nvcc") is None, reason="no nvcc: the plugin's kernels are not compiled")
def test_no_kernel_of_the_plugin_spills(tmp_path: Path) -> None:
    """As CMake compiles dispatch.cu on a device, at the head dimension that takes the most registers."""
    head_dims, source = tmp_path / "head_dims.h", KERNELS / "plugin" / "dispatch.cu"
    head_dims.write_text("#define VITC_HEAD_DIMS(X) X(128)\n", encoding="utf-8")
    flags = ["-std=c++17", "-O3", "-cubin", "-arch=sm_87", "-Xptxas", "-v", f"-I{build.CUDA_SOURCES}"]
    files = ["-include", str(head_dims), str(source), "-o", str(tmp_path / "kernels.cubin")]
    command = [build.require_nvcc(), *flags, *files]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", said)
    assert frames == [("0", "0", "0")] * (3 * 2 * 2 * len(TILES))  # inputs and P, outputs, bias or none


def test_the_header_is_what_the_description_says() -> None:
    assert generate_header.main(["--check"]) == 0


def test_the_header_names_every_field_in_order_and_every_tile() -> None:
    text = generate_header.HEADER.read_text(encoding="utf-8")
    places = [text.index(f'{{"{field.name}", FieldKind::') for field in attention_spec().fields]
    assert places == sorted(places)
    for tile in TILES:
        assert f"X({tile.query_rows}, {tile.key_rows}, {tile.warps})" in text


def test_a_stale_header_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stale = tmp_path / "vit_attention_spec.h"
    monkeypatch.setattr(generate_header, "HEADER", stale)
    assert generate_header.main([]) == 0
    assert generate_header.main(["--check"]) == 0
    stale.write_text("old", encoding="utf-8")
    with pytest.raises(BuildError, match="run python -m vitc.kernels.generate_header"):
        generate_header.main(["--check"])


def compile_plugin(root: Path, arguments: list[str]) -> None:
    command = [harness.host_compiler(), "-std=c++17", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"]
    command += ["-Wno-deprecated-declarations", f"-isystem{root / 'include'}", f"-isystem{CUDA_INCLUDES[0]}"]
    command += [f"-I{KERNELS / 'cuda'}", f"-I{KERNELS / 'plugin'}", str(KERNELS / "plugin" / "plugin.cpp")]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


@needs_tensorrt
@needs_cuda
@pytest.mark.parametrize("root", ROOTS, ids=str)
def test_it_compiles_both_ways_of_registering(root: Path) -> None:
    compile_plugin(root, ["-fsyntax-only"])
    compile_plugin(root, ["-fsyntax-only", "-DVITC_REGISTER_AT_LOAD"])


@needs_tensorrt
@needs_cuda
@pytest.mark.parametrize("root", ROOTS, ids=str)
def test_its_build_side(root: Path, tmp_path: Path) -> None:
    driver = tmp_path / "driver"
    compile_plugin(
        root,
        [str(Path(__file__).parent / "plugin_driver.cpp"), "-o", str(driver)],
    )
    done = subprocess.run([str(driver)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "creator VitAttention 1 vitc"
    fields = attention_spec().fields
    end = 1 + len(fields)
    assert lines[1:end] == [f"field {field.name} {TYPE_CODES[field.type]}" for field in fields]

    said = lines[end:]
    assert said[:2] == ["parsed 1", "values packed 3 64 0.125 0 64 32 int8 0.5 0.25 0.125 0.0625"]
    assert said[2:6] == [
        "supports int8 1 1",
        "supports half 0 0",
        "supports bias 1 1 1 1 1",
        "output type 1 status 0",
    ]
    node = AttentionFields("packed", 3, 64, 0.125, 0, 64, 32, "int8", 0.5, 0.25, 0.125, 0.0625)
    launched = said[8].split()
    assert said[6:8] == ["shapes 0", "enqueue 0"]
    assert launched[:8] == ["launched", "2", "3", "197", "197", "576", str(197 * 576), "384"]
    assert np.float32(launched[8]) == reference.logit_factor(node)
    assert np.float32(launched[9]) == np.float32(reference.out_factor(node))

    assert said[9:12] == ["shapes 0", "context 2 197", "context 5 50"]
    said = said[3:]

    by_head = dataclasses.replace(node, head_scales=(1.0, 2.0, 3.0, 0.5, 0.25, 4.0, 1.5, 2.5, 3.5))
    assert said[9:11] == ["shapes 0", "enqueue 0"]
    factors = said[11].split()
    assert factors[:2] == ["factors", "3"]
    assert np.array_equal(np.float32(factors[2::2]), reference.logit_factor(by_head))
    assert np.array_equal(np.float32(factors[3::2]), np.float32(reference.out_factor(by_head)))

    refusals = "\n".join(said[12:])
    for message in (
        "do not fit num_heads 3 and head_dim 64: the first input is [2, 197, 573], the output [2, 197, 192]",
        "its bias has the shape [3, 1, 5, 7], and must be [a divisor of 2, 1 or 3, 5, 7]",
        "layer 'blocks.0.attn': field 'layout' is 'bnhdd', and must be one of packed|bnhd|bhnd|",
        "field 'num_heads' is 0, and must be at least 1 (H)",
        "field 'has_bias' is 2, and must be at most 1",
        "no kernel for head_dim 48: add it to VITC_HEAD_DIMS and build the plugin again",
        "either all are 0 (floating point) or all are > 0 (INT8)",
        "and must be at least 0: negate q instead",
        "field 'out_scale' is not finite",
        "'head_scales' has 2 factors for 3 heads; it must be one 1, or 9 factors > 0 of the scales of INT8 inputs",
        "it has 65 heads, and at most 64 may have scales of their own",
        "the field 'out_scale' is absent; every field must be written",
        "field 'num_heads' has the plugin field type 1 and the length 1, and must be one integer",
    ):
        assert message in refusals
    assert refusals.count("created 0") == 11
    assert "created 1" not in refusals
    assert refusals.count("shapes -1") == 2


@pytest.mark.skipif(build.find_tool("nvcc") is None, reason="no nvcc: the plugin's kernels are not compiled")
@pytest.mark.slow
def test_the_dispatch_compiles(tmp_path: Path) -> None:
    dims = tmp_path / "head_dims.h"
    dims.write_text("#define VITC_HEAD_DIMS(X) X(32)\n", encoding="utf-8")
    nvcc = build.require_nvcc()
    command = [nvcc, "-std=c++17", "-O1", "-arch=sm_87", "-c", "-Xptxas", "-v", "-include", str(dims)]
    command += [f"-I{KERNELS / 'cuda'}", f"-I{KERNELS / 'plugin'}", str(KERNELS / "plugin" / "dispatch.cu")]
    done = subprocess.run([*command, "-o", str(tmp_path / "x.o")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    kernels = 3 * 2 * 2 * len(TILES)
    assert done.stderr.count(" 0 bytes stack frame, 0 bytes spill stores") == kernels
