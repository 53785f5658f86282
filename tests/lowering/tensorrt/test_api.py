from __future__ import annotations

import importlib
import platform
import subprocess
import sys
import types
from typing import Any

import pytest

from vitc.errors import BuildError, MissingDependencyError
from vitc.lowering.tensorrt import api, elf_alias


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stands for what is installed: name -> version, or the exception its import raises."""
    found: dict[str, Any] = {}

    def import_module(name: str) -> types.SimpleNamespace:
        state = found.get(name, ModuleNotFoundError(name))
        if isinstance(state, Exception):
            raise state
        return types.SimpleNamespace(__name__=name, __version__=state)

    monkeypatch.setattr(importlib, "import_module", import_module)
    monkeypatch.setattr(api, "load_alias", lambda soname, needed: None)
    api.load.cache_clear()
    yield found
    api.load.cache_clear()


def test_the_devices_own_comes_first(installed: dict[str, Any]) -> None:
    installed.update(tensorrt="10.3.0", tensorrt_rtx="1.7.1.116")
    assert api.find().__name__ == "tensorrt"
    assert api.find("SM86").__name__ == "tensorrt_rtx"
    assert api.available() == {"tensorrt": "10.3.0", "tensorrt_rtx": "1.7.1.116"}


def test_rtx_where_the_other_does_not_load(installed: dict[str, Any]) -> None:
    installed.update(tensorrt=ImportError("libnvinfer.so.10: cannot open"), tensorrt_rtx="1.7.1.116")
    assert api.find().__name__ == "tensorrt_rtx"
    with pytest.raises(MissingDependencyError, match=r"libraries do not load \(libnvinfer.so.10: cannot open\)"):
        api.load("tensorrt")


def test_none_at_all(installed: dict[str, Any]) -> None:
    with pytest.raises(MissingDependencyError) as error:
        api.find()
    assert str(error.value).startswith("no TensorRT can be used here. tensorrt is not installed: it comes with JetPack")
    assert "pip install 'vitc[rtx]'" in str(error.value)
    assert "pip install 'vitc[rtx]'" in api.available()["tensorrt_rtx"]


def test_a_version_vitc_does_not_know(installed: dict[str, Any]) -> None:
    installed.update(tensorrt="8.6.2")
    with pytest.raises(BuildError, match=r"tensorrt 8.6.2 is installed; vitc needs at least 10.3, below 12"):
        api.load("tensorrt")


def test_an_unknown_distribution() -> None:
    with pytest.raises(BuildError, match="unknown TensorRT distribution 'tensort'; known: tensorrt, tensorrt_rtx"):
        api.load("tensort")


@pytest.mark.parametrize("version", ["10.3.0", "10.9", "10.16.1.11"])
def test_versions_within_a_range(version: str) -> None:
    api.require_version(types.SimpleNamespace(__version__=version), "10.3", "10.16", "orin")


@pytest.mark.parametrize("version", ["10.2.9", "10.17.0", "11.0"])
def test_versions_out_of_a_range(version: str) -> None:
    trt = types.SimpleNamespace(__version__=version, __name__="tensorrt")
    with pytest.raises(BuildError, match=rf"orin needs tensorrt 10.3 to 10.16; {version} is installed"):
        api.require_version(trt, "10.3", "10.16", "orin")


def test_no_version() -> None:
    with pytest.raises(BuildError, match="'next' is not a version: it must begin with numbers"):
        api.numbers("next")


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_the_alias_answers_to_the_name_the_parser_asks_for() -> None:
    pytest.importorskip("tensorrt_rtx")
    code = """
import ctypes, tensorrt_rtx
from vitc.lowering.tensorrt import load
try:
    ctypes.CDLL("libtensorrt_rtx.so")
except OSError:
    print("absent")
load("tensorrt_rtx")
print(bool(ctypes.CDLL("libtensorrt_rtx.so").getPluginRegistry))
"""
    assert run(code).split() == ["absent", "True"]


def test_an_alias_on_a_machine_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(BuildError, match="on x86_64 and aarch64 only, not on riscv64: put a folder with a link"):
        elf_alias.load_alias("a.so", "b.so.1")


def test_an_alias_of_a_library_that_is_not_there() -> None:
    with pytest.raises(BuildError, match=r"a\.so could not be made to stand for not-there.so.1: "):
        elf_alias.load_alias("a.so", "not-there.so.1")


def test_neither_torch_nor_onnx_nor_tensorrt_is_imported() -> None:
    code = """
import sys, vitc.lowering.tensorrt, vitc.kernels.python_plugin
print([name for name in ("torch", "onnx", "tensorrt", "tensorrt_rtx") if name in sys.modules])
"""
    assert run(code).strip() == "[]"
