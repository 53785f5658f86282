"""Compiles the attention kernel to cubins, and checks what the compiler made of it.

    python -m vitc.kernels.build --arch sm_87 --head-dim 64            # a table, one line per variant
    python -m vitc.kernels.build --arch sm_87 --head-dim 64 --out DIR  # and the cubins

A cubin is refused where the compiler spilled registers or used a stack, where a block does not fit the device, or
(with nvdisasm at hand) where the INT8 variants hold no IMMA or any variant touches local memory.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vitc.errors import BuildError, InputError, MissingDependencyError, unknown
from vitc.kernels.mix import Mixed, table
from vitc.kernels.sass import disassemble, loop_costs, opcodes, parse
from vitc.kernels.tiles import DEFAULT_TILE, SM_LIMITS, TILES, blocks_per_sm
from vitc.kernels.toolkit import SYSTEM_TOOLKIT, find_tool
from vitc.kernels.variants import HEAD_DIMS, Variant

CUDA_SOURCES = Path(__file__).resolve().parent / "cuda"
KERNEL_NAME = "vitc_attention"
"""What cuModuleGetFunction asks a cubin for."""
FLAGS = ("-std=c++17", "-O3", "-cubin", "-Xptxas", "-v", "-lineinfo")


@dataclass(frozen=True)
class Cubin:
    """A compiled variant and what ptxas said about it.

    variant:     what was compiled.
    arch:        for which architecture, as sm_87.
    path:        the file.
    registers:   of each thread.
    stack_bytes: of each thread.
    spill_bytes: of each thread.
    """

    variant: Variant
    arch: str
    path: Path
    registers: int
    stack_bytes: int
    spill_bytes: int

    @property
    def blocks_per_sm(self) -> int:
        """Blocks that an SM holds at once: what registers, shared memory and threads leave room for."""
        return blocks_per_sm(self.arch, self.variant.threads, self.registers, self.variant.shared_bytes)

    def row(self) -> str:
        """One line of the build's table."""
        return (
            f"{self.arch:7} {self.variant.name:44} {self.registers:4} registers  {self.variant.shared_bytes:6} B shared"
            f"  {self.stack_bytes:3} B stack  {self.spill_bytes:3} B spilled  {self.blocks_per_sm} blocks/SM"
        )


def require_nvcc() -> str:
    """nvcc's path. Raises `MissingDependencyError`."""
    nvcc = find_tool("nvcc")
    if nvcc is None:
        raise MissingDependencyError(
            "building the attention kernel needs nvcc, which is neither in CUDA_HOME, nor on the path, nor in "
            f"{SYSTEM_TOOLKIT}, nor among this Python's packages: install the CUDA toolkit, or pip install 'vitc[nvcc]'"
        )
    return nvcc


def default_cache() -> Path:
    """VITC_CACHE, or a folder under the system's temporary one."""
    return Path(os.environ.get("VITC_CACHE", Path(tempfile.gettempdir()) / "vitc-cache")) / "cubins"


def build_cubin(variant: Variant, arch: str, *, cache: Path | None = None) -> Cubin:
    """Compiles one variant for one architecture ("sm_87"), or finds it in the cache, and checks it.

    Raises `InputError` for an unknown architecture or a tile that does not fit it, `MissingDependencyError` without
    nvcc, `BuildError` where nvcc fails or the result is refused.
    """
    if arch not in SM_LIMITS:
        raise InputError(unknown("CUDA architecture", arch, SM_LIMITS))
    if variant.shared_bytes > SM_LIMITS[arch].shared_per_block:
        raise InputError(
            f"{variant.name} needs {variant.shared_bytes} bytes of shared memory and a block of {arch} has "
            f"{SM_LIMITS[arch].shared_per_block}: take a smaller tile"
        )
    nvcc = require_nvcc()
    folder = cache or default_cache()
    path = folder / f"{variant.name}-{arch}-{_key(nvcc, variant)}.cubin"
    log = path.with_suffix(".log")
    if not (path.exists() and log.exists()):
        _run_nvcc(nvcc, variant, arch, path, log)
    cubin = _read_log(variant, arch, path, log.read_text(encoding="utf-8"))
    check(cubin)
    return cubin


def cubin_name(variant: Variant, arch: str) -> str:
    """The file's name in a bundle. It holds a hash of the kernel's sources: launcher and kernel must be of one
    version."""
    return f"{variant.name}-{arch}-{_hash_of_sources().hexdigest()[:16]}.cubin"


def _key(nvcc: str, variant: Variant) -> str:
    version = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    return _hash_of_sources(version, *FLAGS, *variant.macros).hexdigest()[:16]


def _hash_of_sources(*texts: str) -> hashlib._Hash:
    key = hashlib.sha256("\0".join(texts).encode())
    for source in sorted(CUDA_SOURCES.iterdir()):
        key.update(source.name.encode() + source.read_bytes())
    return key


def _run_nvcc(nvcc: str, variant: Variant, arch: str, path: Path, log: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / "kernel.cubin"
        source = str(CUDA_SOURCES / "attention.cu")
        command = [nvcc, *FLAGS, f"-arch={arch}", *variant.macros, source, "-o", str(made)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BuildError(f"{' '.join(command)}\nfailed with {done.returncode}:\n{done.stderr[-4000:]}")
        log.write_text(done.stderr, encoding="utf-8")
        made.replace(path)  # at once: another process may be building the same


def _read_log(variant: Variant, arch: str, path: Path, text: str) -> Cubin:
    registers = re.search(r"Used (\d+) registers", text)
    memory = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", text)
    if registers is None or memory is None:
        raise BuildError(f"ptxas did not report registers and spills of {variant.name} for {arch}; it said:\n{text}")
    stack, stores, loads = (int(x) for x in memory.groups())
    return Cubin(variant, arch, path, int(registers[1]), stack, max(stores, loads))


def check(cubin: Cubin) -> None:
    """Raises `BuildError` where the compiled kernel is not what it must be."""
    what = f"{cubin.variant.name} for {cubin.arch}"
    if cubin.stack_bytes or cubin.spill_bytes:
        raise BuildError(
            f"{what} spills: {cubin.spill_bytes} bytes of registers, {cubin.stack_bytes} bytes of stack. "
            "Take a smaller tile, or more warps for it"
        )
    if cubin.blocks_per_sm < 1:
        raise BuildError(f"{what} needs more registers than an SM has: {cubin.registers} for each thread")


def check_sass(cubin: Cubin) -> None:
    """Raises `BuildError` where the SASS lacks the tensor core's instructions, or goes through local memory."""
    found = opcodes(parse(disassemble(cubin.path)))
    what = f"the SASS of {cubin.variant.name} for {cubin.arch}"
    wanted = {"IMMA"} if cubin.variant.input == "int8" else set()
    if cubin.variant.probability == "fp16":
        wanted.add("HMMA")
    kinds = {name.split(".")[0] for name in found}
    absent = sorted(wanted - kinds)
    if absent:
        raise BuildError(f"{what} holds no {' and no '.join(absent)}: the tensor cores are not used")
    local = sorted(kinds & {"LDL", "STL"})
    if local:
        raise BuildError(f"{what} goes through local memory: {', '.join(local)}")


def all_variants(head_dims: Sequence[int] = HEAD_DIMS) -> Iterator[Variant]:
    """Every variant that a node with one of these head dimensions can ask for."""
    kinds = (("int8", "int8"), ("int8", "fp16"), ("fp16", "fp16"))
    for dim, (input_, pv), output, bias in itertools.product(head_dims, kinds, ("int8", "fp16"), (False, True)):
        for tile in TILES:
            yield Variant(dim, input_, pv, output, bias, tile)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Compile the attention kernel and show what the compiler made of it.")
    parser.add_argument("--arch", action="append", choices=sorted(SM_LIMITS), help="default: all")
    parser.add_argument("--head-dim", action="append", type=int, choices=HEAD_DIMS, help="default: all")
    parser.add_argument("--default-tile", action="store_true", help="only the tile that is taken without a hint")
    parser.add_argument("--mix", action="store_true", help="and what a tile costs a warp (nvdisasm, without a bias)")
    parser.add_argument("--out", type=Path, help="put the cubins into this folder")
    options = parser.parse_args(arguments)
    for arch in options.arch or SM_LIMITS:
        mixed: list[Mixed] = []
        for variant in all_variants(options.head_dim or HEAD_DIMS):
            if options.default_tile and variant.tile != DEFAULT_TILE:
                continue
            if variant.shared_bytes > SM_LIMITS[arch].shared_per_block:
                continue
            cubin = build_cubin(variant, arch, cache=options.out)
            if find_tool("nvdisasm"):
                check_sass(cubin)
            print(cubin.row(), flush=True)
            if options.mix and not variant.has_bias:
                costs = loop_costs(disassemble(cubin.path))
                mixed.append(Mixed(variant, cubin.registers, cubin.blocks_per_sm, costs))
        if options.mix:
            print(f"\n{arch}\n\n{table(mixed)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
