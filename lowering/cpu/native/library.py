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

from vitc.errors import BuildError, InternalError, MissingDependencyError
from vitc.lowering.cpu.machine import cpu_flags
from vitc.ownership import own_folder, why_not_ours

SOURCES = Path(__file__).resolve().parent / "csrc"
#: What the kernels are written for; Linux's names.
NEEDED = ("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni")
_COMPILER_SECONDS = 300
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

    Raises MissingDependencyError without a compiler, BuildError where it does not compile, or can't be kept or loaded.
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
    path = Path("the user's cache folder")
    try:
        path = _cache() / f"native-{_key(compiler, flags)}.so"
        if not _is_whole(path):
            _compile(compiler, flags, path)
        return _opened(path)
    except OSError as error:
        raise BuildError(
            f"the native CPU engine can't be kept in {path.parent}, or not be loaded from there ({error}); "
            "set VITC_CACHE to a folder of your own that can be written"
        ) from error


def _opened(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    try:
        library.vitc_layout.argtypes = [ctypes.c_int32]
        library.vitc_open.restype = ctypes.c_void_p
        pointer, count = ctypes.c_void_p, ctypes.c_int32
        library.vitc_open.argtypes = [pointer, count, pointer, count, count, ctypes.c_char_p]
        size = ctypes.c_int64
        library.vitc_run.argtypes = [pointer, pointer, count, size, size, size, ctypes.c_char_p]
        library.vitc_close.argtypes = [ctypes.c_void_p]
        library.vitc_close.restype = None
        library.vitc_peak.argtypes = [ctypes.c_int64]
        library.vitc_peak.restype = ctypes.c_double
    except AttributeError as error:
        raise BuildError(f"{path} is not vitc's native CPU engine ({error}); remove it") from error
    from vitc.lowering.cpu.native.tape import layout  # here: it takes onnx, and what asks `unavailable` does not

    mirrored = layout()
    if [library.vitc_layout(i) for i in range(len(mirrored) + 1)] != [*mirrored, -1]:
        raise InternalError("the structs or constants of csrc/ differ from those in tape.py")
    return library


def _cache() -> Path:
    return own_folder() / "native"


def _key(compiler: str, flags: tuple[str, ...]) -> str:
    version = _told([compiler, "--version"])
    key = hashlib.sha256("\0".join([version, *flags]).encode())
    for source in sorted(SOURCES.iterdir()):
        key.update(source.name.encode() + source.read_bytes())
    return key.hexdigest()[:16]


def _digest_of(path: Path) -> Path:
    """Where a library's SHA-256 is kept."""
    return path.with_suffix(".sha256")


def _is_whole(path: Path) -> bool:
    """Whether the library is there as it was made, and nobody else could have changed it or its digest."""
    digest = _digest_of(path)
    if not path.exists() or not digest.exists():
        return False
    for file in (path, digest):
        if (reason := why_not_ours(file)) is not None:
            raise BuildError(f"the native CPU engine is not loaded: {reason}")
    return digest.read_bytes() == hashlib.sha256(path.read_bytes()).hexdigest().encode()


def _compile(compiler: str, flags: tuple[str, ...], path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made, digest = Path(folder) / path.name, Path(folder) / "digest"
        command = [compiler, *flags, str(SOURCES / "engine.cpp"), "-o", str(made)]
        _told(command)
        if not made.is_file():
            raise BuildError(f"the native CPU engine does not compile: {' '.join(command)} made no library")
        made.chmod(0o755)
        digest.write_bytes(hashlib.sha256(made.read_bytes()).hexdigest().encode())
        digest.chmod(0o644)
        # Whole or not at all, whoever else compiles it now. Without its own digest a library is made again.
        os.replace(made, path)
        os.replace(digest, _digest_of(path))


def _told(command: list[str]) -> str:
    """What a run of the compiler prints. BuildError where it fails."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False, stdin=subprocess.DEVNULL,
            timeout=_COMPILER_SECONDS,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"the native CPU engine does not compile: {' '.join(command)}: {error}") from error
    if done.returncode:
        raise BuildError(f"the native CPU engine does not compile: {' '.join(command)}\n{done.stderr[-2000:]}")
    return done.stdout
