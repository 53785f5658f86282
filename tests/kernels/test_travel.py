"""What of the kernel a bundle takes along."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from pathlib import Path

import pytest

from vitc.errors import InputError
from vitc.kernels import build, travel
from vitc.kernels.fields import AttentionFields
from vitc.kernels.launch import Cubins
from vitc.kernels.tiles import kernel_variant

NODE = AttentionFields("packed", 3, 64, 0.125, 0, 64, 64, "int8", 0.02, 0.03, 0.04, 0.05)


def test_nothing_for_a_model_without_attention() -> None:
    assert travel.plugin_files([], "sm_87") == {}


def test_the_sources_and_what_the_model_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(travel, "find_tool", lambda name: None)
    nodes = [NODE, NODE, dataclasses.replace(NODE, head_dim=80)]
    files = travel.plugin_files(nodes, "sm_87")
    assert {"CMakeLists.txt", "plugin.cpp", "dispatch.cu", "cuda/attention.cuh", "options.cmake"} <= set(files)
    assert not [name for name in files if name.startswith("cubins/")]
    options = files["options.cmake"]
    assert isinstance(options, bytes)
    assert b'set(VITC_HEAD_DIMS "64;80"' in options
    assert b'set(CMAKE_CUDA_ARCHITECTURES "87"' in options


@pytest.mark.skipif(build.find_tool("nvcc") is None, reason="no nvcc: no cubins to take along")
def test_the_cubins_are_found_by_the_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content in travel.plugin_files([NODE], "sm_87").items():
        if name.startswith("cubins/") and isinstance(content, Path):
            shutil.copyfile(content, tmp_path / Path(name).name)
    monkeypatch.setattr("vitc.kernels.build.find_tool", lambda name: None)
    assert Cubins([tmp_path])(kernel_variant(NODE, "sm_87"), "sm_87")[:4] == b"\x7fELF"


def test_a_device_the_kernel_is_not_for() -> None:
    with pytest.raises(InputError, match="unknown CUDA architecture 'sm_72'"):
        travel.plugin_files([NODE], "sm_72")


@pytest.mark.skipif(
    shutil.which("cmake") is None or build.find_tool("nvcc") is None,
    reason="no cmake or no nvcc: nothing is configured",
)
@pytest.mark.slow
def test_the_bundles_cmake_builds_the_kernels_with_its_own_options(tmp_path: Path) -> None:
    """With stand-ins for TensorRT: a header is looked for by its name, a library by its."""
    for name, content in travel.plugin_files([dataclasses.replace(NODE, head_dim=32)], "sm_87").items():
        target = tmp_path / "plugin" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    root = tmp_path / "tensorrt"
    for path in ("include/NvInfer.h", "lib/libnvinfer.so"):
        (root / path).parent.mkdir(parents=True)
        (root / path).touch()
    made = tmp_path / "build"
    configure = ["cmake", "-S", str(tmp_path / "plugin"), "-B", str(made), f"-DTENSORRT_ROOT={root}"]
    configure.append(f"-DCMAKE_CUDA_COMPILER={build.require_nvcc()}")
    for command in (configure, ["cmake", "--build", str(made), "--target", "vitc_kernels"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert "sm_87" in done.stdout + done.stderr
    assert "X(32)" in (made / "head_dims.h").read_text(encoding="utf-8")
