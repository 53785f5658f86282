"""Compiles csrc/ with the system's C++ compiler, once a machine, and loads it."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from vitc.errors import BuildError, MissingDependencyError
from vitc.lowering.cpu.machine import cpu_flags

SOURCES = Path(__file__).resolve().parent / "csrc"
#: What the kernels are written for; Linux's names.
NEEDED = ("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni")
_VNNI_FLAGS = (*(f"-m{name.replace('_', '')}" for name in NEEDED), "-mfma", "-mprefer-vector-width=512")
# GCC 12 takes its own _mm512_undefined for uninitialized.
_FLAGS = (
    "-std=c++20",
    "-O2",
    "-fPIC",
    "-shared",
    "-pthread",
    "-Wall",
    "-Wno-uninitialized",
    "-Wno-maybe-uninitialized",
)


def unavailable(flags: frozenset[str] | None = None) -> str | None:
    """Why the engine can't be used on this machine, or None."""
    have = cpu_flags() if flags is None else flags
    absent = [name for name in NEEDED if name not in have]
    if absent:
        return f"this processor has no {', '.join(absent)}"
    if _compiler() is None:
        return "no C++ compiler: install g++ or clang++, or set CXX"
    return None


def load(portable: bool = False) -> ctypes.CDLL:
    """The compiled library. `portable` compiles the same kernels in plain loops: slow, for tests on any processor.

    Raises MissingDependencyError without a compiler, BuildError with its message where it fails.
    """
    return _load(_compiler(), portable)


def _compiler() -> str | None:
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    return next((path for name in names if (path := shutil.which(name))), None)


@functools.cache
def _load(compiler: str | None, portable: bool) -> ctypes.CDLL:
    if compiler is None:
        raise MissingDependencyError("the native CPU engine needs a C++ compiler: install g++ or clang++, or set CXX")
    flags = _FLAGS if portable else (*_FLAGS, *_VNNI_FLAGS)
    path = _cache() / f"native-{_key(compiler, flags)}.so"
    if not path.exists():
        _compile(compiler, flags, path)
    library = ctypes.CDLL(str(path))
    library.vitc_open.restype = ctypes.c_void_p
    library.vitc_open.argtypes = [ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32]
    library.vitc_run.argtypes = [ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3]
    library.vitc_run.restype = None
    library.vitc_close.argtypes = [ctypes.c_void_p]
    library.vitc_close.restype = None
    library.vitc_peak.argtypes = [ctypes.c_int64]
    library.vitc_peak.restype = ctypes.c_double
    return library


def _cache() -> Path:
    """VITC_CACHE, or the user's own cache folder: nobody else may write what this process loads."""
    base = os.environ.get("VITC_CACHE")
    if base:
        return Path(base) / "native"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vitc" / "native"


def _key(compiler: str, flags: tuple[str, ...]) -> str:
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    key = hashlib.sha256("\0".join([version, *flags]).encode())
    for source in sorted(SOURCES.iterdir()):
        key.update(source.name.encode() + source.read_bytes())
    return key.hexdigest()[:16]


def _compile(compiler: str, flags: tuple[str, ...], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        command = [compiler, *flags, str(SOURCES / "engine.cpp"), "-o", str(made)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            raise BuildError(f"the native CPU engine does not compile: {' '.join(command)}\n{result.stderr[-2000:]}")
        os.replace(made, path)  # whole or not at all, whoever else compiles it now
