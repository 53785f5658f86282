"""The blocks as the steps of csrc/engine.cpp: weights packed, scales folded, buffers given out."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from vitc.errors import InternalError
from vitc.lowering.cpu.native.check import MOST_HEAD_DIM, MOST_TOKENS, MOST_WIDTH, check
from vitc.lowering.cpu.native.match import Attention, Block, Linear, Norm, Trunk

PANEL = 32
LANES = SEGMENTS = 16
_AS_IN_THE_FILE = (1.0, 128)
_GELU_LEAST = 0.1701  # the exact form's least value is -0.16997, the tanh form's -0.17004
_REAL, _ADD_TO, _QUANTIZED, _ACTIVATED = range(4)
_NORM, _LINEAR, _ATTENTION, _COPY = range(4)


class _Activation(ctypes.Structure):
    _fields_ = [
        ("cubic", ctypes.c_float * SEGMENTS * 4),
        ("segments_per_unit", ctypes.c_float),
        ("last", ctypes.c_float),
    ]


class _Weights(ctypes.Structure):
    _fields_ = [
        *[(name, ctypes.c_void_p) for name in ("panels", "start", "scale", "bias")],
        ("k", ctypes.c_int32), ("n", ctypes.c_int32),
    ]  # fmt: skip


class _LayerNorm(ctypes.Structure):
    _fields_ = [
        ("gain", ctypes.c_void_p), ("shift", ctypes.c_void_p), ("epsilon", ctypes.c_float), ("width", ctypes.c_int32)
    ]  # fmt: skip


class _Attention(ctypes.Structure):
    _fields_ = [
        ("heads", ctypes.c_int32), ("head_dim", ctypes.c_int32),
        ("score_scale", ctypes.c_void_p), ("value_scale", ctypes.c_void_p),
    ]  # fmt: skip


class Step(ctypes.Structure):
    """struct Step of csrc/step.h."""

    _fields_ = [
        *[(name, ctypes.c_int32) for name in ("kind", "leave", "input", "output", "in_width", "out_width")],
        ("weights", _Weights), ("norm", _LayerNorm), ("attention", _Attention),
        ("activation", ctypes.c_void_p), ("inverse_step", ctypes.c_float), ("zero", ctypes.c_int32),
    ]  # fmt: skip


class BufferForm(ctypes.Structure):
    """struct BufferForm of csrc/step.h."""

    _fields_ = [(name, ctypes.c_int32) for name in ("width", "real", "whole_batch")]


class BufferRow(ctypes.Structure):
    """struct Buffer of csrc/step.h."""

    _fields_ = [("data", ctypes.c_void_p), ("bytes", ctypes.c_int64)]


def layout() -> list[int]:
    """The numbers of vitc_layout in csrc/engine.cpp as they are here."""
    structs = (Step, _Weights, _LayerNorm, _Attention, _Activation, BufferForm, BufferRow)
    fields = [
        number
        for struct in structs
        for number in (ctypes.sizeof(struct), *(getattr(struct, name).offset for name, *_ in struct._fields_))
    ]
    kinds, leaves = (_NORM, _LINEAR, _ATTENTION, _COPY), (_REAL, _ADD_TO, _QUANTIZED, _ACTIVATED)
    return [*fields, *kinds, *leaves, PANEL, LANES, MOST_TOKENS, MOST_WIDTH, MOST_HEAD_DIM]


@dataclass(frozen=True)
class Buffer:
    """[tokens, width] of FP32, or of INT8 as u8 with zero point 128; for the whole batch or one chunk of images."""

    width: int
    real: bool
    whole: bool

    @property
    def dtype(self) -> npt.DTypeLike:
        return np.float32 if self.real else np.uint8

    @property
    def form(self) -> BufferForm:
        return BufferForm(self.width, int(self.real), int(self.whole))


@dataclass
class Tape:
    """Steps and buffers; `buffer_of` says where each tensor lies."""

    steps: list[Step] = field(default_factory=list)
    buffers: list[Buffer] = field(default_factory=list)
    buffer_of: dict[str, int] = field(default_factory=dict)
    finer: dict[str, tuple[float, int]] = field(default_factory=dict)  # tensor -> `one_sided` of its step
    keep: list[object] = field(default_factory=list)  # what the steps point into

    def pointer(self, value: npt.NDArray[np.generic]) -> int:
        array = aligned(value.shape, value.dtype)
        array[...] = value
        self.keep.append(array)
        return array.ctypes.data


def aligned(shape: Sequence[int], dtype: npt.DTypeLike) -> npt.NDArray[np.generic]:
    """An uninitialized array that begins on a cache line."""
    bytes_ = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(bytes_ + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + bytes_].view(dtype).reshape(shape)


def write_tape(trunk: Trunk) -> Tape:
    """A trunk as a tape. FP32 tensors are added to in place where nobody reads them later.

    Raises Unsuitable where the trunk is not one the kernels take.
    """
    check(trunk)
    tape = Tape()
    last_read = _last_reads(trunk)
    free: list[int] = []
    activations: dict[str, int] = {}
    tape.finer = {
        b.output: one_sided(b.step) for b in trunk.blocks if isinstance(b, Linear) and b.step and b.activation
    }
    for name in (*trunk.outputs, *(b.input for b in trunk.blocks if isinstance(b, Attention))):
        tape.finer.pop(name, None)  # read as the file has it
    for name in trunk.inputs:
        tape.buffer_of[name] = _new(tape, *_input_form(trunk, name), whole=True)
    for i, block in enumerate(trunk.blocks):
        width, real = _output_form(block)
        if isinstance(block, Linear) and block.residual is not None:
            target = _residual(tape, block.residual, in_place=last_read[block.residual] == i)
        elif real or block.output in trunk.outputs:
            target = _new(tape, width, real, whole=True)
        else:
            target = _reused(tape, free, width)
        tape.buffer_of[block.output] = target
        tape.steps.append(_step(tape, block, activations))
        source = tape.buffer_of[block.input]
        if last_read[block.input] == i and not tape.buffers[source].whole:
            free.append(source)
    return tape


def _last_reads(trunk: Trunk) -> dict[str, int]:
    reads: dict[str, int] = {}
    for i, block in enumerate(trunk.blocks):
        reads[block.input] = i
        if isinstance(block, Linear) and block.residual is not None:
            reads[block.residual] = i
    outside = {name for node in trunk.after for name in node.input} | set(trunk.outputs)
    return reads | {name: len(trunk.blocks) for name in outside}


def _input_form(trunk: Trunk, name: str) -> tuple[int, bool]:
    """(width, whether FP32) of a tensor that enters the trunk, from who reads it."""
    for block in trunk.blocks:
        if isinstance(block, Linear) and block.residual == name:
            return int(block.weight.shape[1]), True
        if block.input == name:
            if isinstance(block, Norm):
                return int(block.weight.size), True
            return (
                int(block.weight.shape[0]) if isinstance(block, Linear) else 3 * block.heads * block.head_dim
            ), False
    raise InternalError(f"{name!r} enters the trunk and nobody reads it")


def _output_form(block: Block) -> tuple[int, bool]:
    if isinstance(block, Norm):
        return int(block.weight.size), False
    if isinstance(block, Attention):
        return block.heads * block.head_dim, False
    return int(block.weight.shape[1]), block.step is None


def _new(tape: Tape, width: int, real: bool, whole: bool) -> int:
    tape.buffers.append(Buffer(width, real, whole))
    return len(tape.buffers) - 1


def _reused(tape: Tape, free: list[int], width: int) -> int:
    for buffer in free:
        if tape.buffers[buffer].width == width:
            free.remove(buffer)
            return buffer
    return _new(tape, width, real=False, whole=False)


def _residual(tape: Tape, name: str, in_place: bool) -> int:
    """The buffer that a linear's output is added to: the residual's own, or a copy."""
    source = tape.buffer_of[name]
    if in_place:
        return source
    width = tape.buffers[source].width
    copy = _new(tape, width, real=True, whole=True)
    tape.steps.append(Step(kind=_COPY, input=source, output=copy, in_width=width, out_width=width))
    return copy


def _step(tape: Tape, block: Block, activations: dict[str, int]) -> Step:
    source, target = tape.buffer_of[block.input], tape.buffer_of[block.output]
    step = Step(input=source, output=target, in_width=tape.buffers[source].width, out_width=tape.buffers[target].width)
    if isinstance(block, Norm):
        step.kind = _NORM
        gain, shift = block.weight / np.float32(block.step), block.bias / np.float32(block.step)
        step.norm = _LayerNorm(tape.pointer(gain), tape.pointer(shift), block.epsilon, block.weight.size)
    elif isinstance(block, Attention):
        step.kind = _ATTENTION
        exponents = block.score_scale * np.float32(math.log2(math.e))
        step.attention = _Attention(
            block.heads, block.head_dim, tape.pointer(exponents), tape.pointer(block.value_scale)
        )
    else:
        step.kind = _LINEAR
        _write_linear(tape, step, block, activations)
    return step


def _write_linear(tape: Tape, step: Step, block: Linear, activations: dict[str, int]) -> None:
    factor, zero = tape.finer.get(block.input, _AS_IN_THE_FILE)
    scale, bias = block.scale * np.float32(factor), block.bias
    step.zero = 128
    if block.step is None:
        step.leave = _REAL if block.residual is None else _ADD_TO
    elif block.activation is None:
        step.leave = _QUANTIZED
        scale, bias = scale / np.float32(block.step), bias / np.float32(block.step)
    else:
        step.leave = _ACTIVATED
        factor, step.zero = tape.finer.get(block.output, _AS_IN_THE_FILE)
        step.inverse_step = 1 / (block.step * factor)
        if block.activation not in activations:
            table = np.frombuffer(bytes(activation_table(block.activation)), np.uint8)
            activations[block.activation] = tape.pointer(table)
        step.activation = activations[block.activation]
    k, n = block.weight.shape
    start = -zero * block.weight.sum(0, dtype=np.int32)
    columns = [tape.pointer(_padded(value)) for value in (start, scale, bias)]
    step.weights = _Weights(tape.pointer(pack(block.weight)), *columns, k, n)


def one_sided(step: float) -> tuple[float, int]:
    """(factor of the step, zero point) with which u8 covers what GELU can give, up to the file's 127 steps.

    GELU never falls below -0.17, so of the file's symmetric levels nearly half stand for nothing; here all 256 are
    used, and the rounding error is about halved. Never coarser than the file's.
    """
    finer = (127 * step + _GELU_LEAST) / 255
    return _AS_IN_THE_FILE if finer >= step else (finer / step, math.ceil(_GELU_LEAST / finer))


def _padded(row: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    return np.pad(row, (0, -row.size % PANEL))


def pack(weight: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """[K, N] -> panels [N/32][K/4][32][4], the last one filled up with zeros."""
    k, n = weight.shape
    padded = np.pad(weight, ((0, 0), (0, -n % PANEL)))
    return np.ascontiguousarray(padded.reshape(k // 4, 4, -1, PANEL).transpose(2, 0, 3, 1))


#: Name -> (g with x * g(x) the activation, where g - 1/2 is as good as 1/2).
_GATES: dict[str, tuple[Callable[[float], float], float]] = {
    "gelu": (lambda x: 0.5 * (1 + math.erf(x / math.sqrt(2))), 5.0),
    "gelu_tanh": (lambda x: 0.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))), 5.0),
}


def activation_table(name: str) -> _Activation:
    """g(x) - 1/2 on [0, reach) as cubics, through the Chebyshev nodes of each segment."""
    gate, reach = _GATES[name]
    nodes = 0.5 - 0.5 * np.cos(np.pi * (np.arange(4) + 0.5) / 4)
    powers = np.vander(nodes, 4, increasing=True)
    table = _Activation(segments_per_unit=SEGMENTS / reach, last=np.nextafter(np.float32(SEGMENTS), np.float32(0)))
    for segment in range(SEGMENTS):
        values = [gate((segment + d) * reach / SEGMENTS) - 0.5 for d in nodes]
        for power, coefficient in enumerate(np.linalg.solve(powers, np.array(values))):
            table.cubic[power][segment] = coefficient
    return table
