"""Runs variants of the kernel on the CPU, on the arrays that the reference takes, and says what they did wrong."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vitc.errors import InternalError
from vitc.kernels.fields import AttentionFields
from vitc.kernels.harness.compile import CUDA_SOURCES, build, default_cache
from vitc.kernels.reference import Array, check_inputs
from vitc.kernels.variants import ELEMENT_BYTES, Tile, Variant, variant_of

LAYOUTS = ("packed", "bnhd", "bhnd")
ELEMENTS = tuple(ELEMENT_BYTES)
ERROR_BYTES = 1024
PARAMS_LIMIT = 1024


class HarnessFault(Exception):
    """The kernel did what no kernel may: the text says which block and thread, and what."""


@dataclass(frozen=True)
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
        ("causal", ctypes.c_int32),
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
    call = _Call(layout=LAYOUTS.index(fields.layout), bias_windows=1, bias_heads=1, causal=fields.causal)
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
