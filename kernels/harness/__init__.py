"""Runs the CUDA kernel's own source on the CPU: compiled by the host's C++ compiler against `machine.h`.

`Harness(variants).run(fields, inputs, tile)` gives what the kernel would write, or raises `HarnessFault` with the
first race, access out of bounds, missing wait or parted warp that the machine saw. See machine.h for what it watches.
"""

from __future__ import annotations

import ctypes
import dataclasses
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vitc.errors import BuildError, InternalError, MissingDependencyError
from vitc.kernels.fields import AttentionFields
from vitc.kernels.reference import Array, check_inputs
from vitc.kernels.variants import C_NAMES, ELEMENT_BYTES, Tile, Variant, variant_of

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
LAYOUTS = ("packed", "bnhd", "bhnd")
ELEMENTS = tuple(ELEMENT_BYTES)
ERROR_BYTES = 1024
PARAMS_LIMIT = 1024


class HarnessFault(Exception):
    """The kernel did what no kernel may: the text says which block and thread, and what."""


@dataclasses.dataclass(frozen=True)
class Played:
    """What a run gave: the output [B, N, H*D], and the passes that ldmatrix lost to bank conflicts."""

    out: Array
    bank_conflicts: int


class _Buffer(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("bytes", ctypes.c_int64))


class _Scales(ctypes.Structure):
    """AttentionScales of cuda/params.h."""

    _fields_ = (("scales", ctypes.c_float * 5), ("by_head", ctypes.c_void_p))


class _Call(ctypes.Structure):
    """HarnessCall of entry.cpp."""

    _fields_ = (
        *((name, _Buffer) for name in ("q", "k", "v", "bias", "out")),
        ("extent", ctypes.c_int32 * 5),
        ("scales", _Scales),
        ("layout", ctypes.c_int32),
        ("bias_windows", ctypes.c_int32),
        ("bias_heads", ctypes.c_int32),
        ("bias_is_half", ctypes.c_int32),
    )


class Harness:
    """The given variants of the kernel, compiled for the CPU.

    `arch` is the CUDA architecture that is played (750 has neither wide products nor asynchronous copies).
    `cuda_sources` may be a changed copy of the kernel: how the tests plant faults. Libraries are cached under
    `cache` by the hash of all that goes into them.
    """

    def __init__(
        self,
        variants: Sequence[Variant],
        *,
        arch: int = 870,
        cuda_sources: Path = CUDA_SOURCES,
        sanitize: bool = False,
        cache: Path | None = None,
    ) -> None:
        self.library_path = build(
            variants, arch=arch, cuda_sources=cuda_sources, sanitize=sanitize, cache=cache or default_cache()
        )
        self._library = ctypes.CDLL(str(self.library_path))

    def run(self, fields: AttentionFields, inputs: Sequence[Array], tile: Tile) -> Played:
        """Attention by the played kernel; inputs as `vitc.kernels.reference.attention` takes them.

        Raises `HarnessFault`, or `InternalError` where the library lacks the variant.
        """
        check_inputs(fields, inputs)
        variant = variant_of(fields, tile)
        arrays = [np.ascontiguousarray(x) for x in inputs]
        tokens = arrays[0].shape[2 if fields.layout == "bhnd" else 1]
        width = fields.num_heads * fields.head_dim
        out = np.zeros((arrays[0].shape[0], tokens, width), np.int8 if fields.int8_out else np.float16)
        call = _call_of(fields, arrays, out)
        wanted = (ctypes.c_int32 * 8)(
            variant.head_dim,
            ELEMENTS.index(variant.input),
            ELEMENTS.index(variant.probability),
            ELEMENTS.index(variant.output),
            int(variant.has_bias),
            tile.query_rows,
            tile.key_rows,
            tile.warps,
        )
        error = ctypes.create_string_buffer(ERROR_BYTES)
        conflicts = ctypes.c_int64()
        status = self._library.vitc_harness_run(
            ctypes.byref(wanted), ctypes.byref(call), error, ERROR_BYTES, ctypes.byref(conflicts)
        )
        if status == 2:
            raise InternalError(f"the harness was built without the variant {variant.name}")
        if status != 0:
            raise HarnessFault(error.value.decode())
        return Played(out, conflicts.value)

    def params(self, fields: AttentionFields, inputs: Sequence[Array], out: Array) -> bytes:
        """The kernel's parameters as the C++ side makes them (`make_params` of cuda/params.h), addresses and all."""
        target = ctypes.create_string_buffer(PARAMS_LIMIT)
        call = _call_of(fields, inputs, out)
        size = self._library.vitc_harness_params(ctypes.byref(call), 1 if fields.int8_in else 2, target)
        return target.raw[:size]


def _call_of(fields: AttentionFields, arrays: Sequence[Array], out: Array) -> _Call:
    axis = 2 if fields.layout == "bhnd" else 1
    keys = arrays[0 if fields.layout == "packed" else 1].shape[axis]
    call = _Call(layout=LAYOUTS.index(fields.layout), bias_windows=1, bias_heads=1)
    call.out = _buffer(out)
    for name, array in zip(fields.input_names, arrays, strict=True):
        setattr(call, "q" if name == "qkv" else name, _buffer(array))
    if fields.has_bias:
        bias = arrays[-1]
        call.bias_windows, call.bias_heads = bias.shape[:2]
        call.bias_is_half = int(bias.dtype == np.float16)
    call.extent[:] = (arrays[0].shape[0], fields.num_heads, fields.head_dim, arrays[0].shape[axis], keys)
    call.scales.scales[:] = (fields.scale, fields.q_scale, fields.k_scale, fields.v_scale, fields.out_scale)
    if fields.by_head:
        call.head_scales = np.array(fields.head_scales, np.float32)  # kept as long as its address is
        call.scales.by_head = call.head_scales.ctypes.data
    return call


def _buffer(array: Array) -> _Buffer:
    return _Buffer(array.ctypes.data, array.nbytes)


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
