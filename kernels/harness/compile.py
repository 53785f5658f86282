"""Compiles the kernel's own source for the host, against machine.h. Libraries are cached by what goes into them."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from vitc.errors import BuildError, MissingDependencyError
from vitc.kernels.variants import C_NAMES, Variant

HARNESS_SOURCES = Path(__file__).resolve().parent
CUDA_SOURCES = HARNESS_SOURCES.parent / "cuda"
# No contraction: the kernel says itself where a product and a sum round once.
FLAGS = ("-std=c++17", "-O1", "-g1", "-fPIC", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror")
# GCC's warnings misfire on what the sanitizers add; the plain build has them all as errors.
SANITIZERS = (
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
    "-fno-omit-frame-pointer",
    "-w",
)


def default_cache() -> Path:
    """VITC_CACHE, or a folder under the system's temporary one."""
    return Path(os.environ.get("VITC_CACHE", Path(tempfile.gettempdir()) / "vitc-cache")) / "harness"


def host_compiler() -> str:
    """The C++ compiler: CXX, else g++, else clang++. Raises `MissingDependencyError`."""
    named = os.environ.get("CXX")
    for candidate in (named,) if named else ("g++", "clang++"):
        if shutil.which(candidate):
            return candidate
    raise MissingDependencyError(
        f"the kernel's CPU harness needs a C++17 compiler; looked for {named or 'g++ and clang++'}: "
        "install one (apt install g++), or name it in CXX"
    )


def build(variants: Sequence[Variant], *, arch: int, cuda_sources: Path, sanitize: bool, cache: Path) -> Path:
    """Compiles the variants into a shared library, or finds it in the cache. Raises `BuildError`."""
    flags = [*FLAGS, *(SANITIZERS if sanitize else ())]
    listing = "#define VITC_VARIANTS(X) " + " ".join(_instance(v) for v in variants) + "\n"
    headers = sorted(HARNESS_SOURCES.glob("*.h"))
    machine = _compile(
        [*flags, "-c", str(HARNESS_SOURCES / "machine.cpp")],
        made_of=[HARNESS_SOURCES / "machine.cpp", *headers],
        library=cache / "machine-{}.o",
    )
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "variants.inc").write_text(listing, encoding="utf-8")
        includes = [f"-I{folder}", f"-I{cuda_sources}", f"-I{HARNESS_SOURCES}"]
        entry = HARNESS_SOURCES / "entry.cpp"
        return _compile(
            [*flags, f"-DVITC_HARNESS_ARCH={arch}", "-shared", *includes, str(entry), str(machine)],
            made_of=[
                Path(folder) / "variants.inc",
                entry,
                machine,
                *headers,
                *sorted(cuda_sources.glob("*")),
            ],
            library=cache / "kernel-{}.so",
        )


def _compile(arguments: Sequence[str], *, made_of: Sequence[Path], library: Path) -> Path:
    """Runs the compiler, unless `library` (with the hash of all that goes in for its {}) is there already."""
    compiler = host_compiler()
    flags = [x for x in arguments if not x.startswith(("-I", "/"))]
    key = hashlib.sha256("\0".join([compiler, *flags]).encode())
    for source in made_of:
        key.update(source.name.encode() + source.read_bytes())
    result = library.with_name(library.name.format(key.hexdigest()[:24]))
    if result.exists():
        return result
    result.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=result.parent) as folder:
        made = Path(folder) / result.name
        command = [compiler, *arguments, "-o", str(made)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BuildError(f"{' '.join(command)}\nfailed with {done.returncode}:\n{done.stderr[-4000:]}")
        made.replace(result)  # at once: another process may be building the same
    return result


def _instance(v: Variant) -> str:
    t = v.tile
    elements = f"{C_NAMES[v.input]}, {C_NAMES[v.probability]}, {C_NAMES[v.output]}"
    return f"X({v.head_dim}, {elements}, {int(v.has_bias)}, {t.query_rows}, {t.key_rows}, {t.warps})"
