"""The blocks, ready to run: a tape, its buffers and the threads."""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Mapping

import numpy as np

from vitc.errors import BuildError, InputError
from vitc.lowering.cpu.engine import Array
from vitc.lowering.cpu.native.check import MOST_TOKENS
from vitc.lowering.cpu.native.library import load
from vitc.lowering.cpu.native.match import Trunk
from vitc.lowering.cpu.native.tape import BufferForm, BufferRow, Step, aligned, write_tape

_MESSAGE_BYTES = 256  # kMessage of csrc/engine.cpp


class Blocks:
    """One call at a time: the caller holds a lock. Buffers are kept for the next call of the same size.

    A forked child has its parent's memory and none of its threads: it opens the tape again at its first call.
    """

    def __init__(self, trunk: Trunk, threads: int, portable: bool = False) -> None:
        """Raises Unsuitable; BuildError, MissingDependencyError (see `library.load`)."""
        self._library = load(portable)
        self._trunk = trunk
        self._tape = write_tape(trunk)
        self._threads = threads
        self._arrays: dict[int, Array] = {}
        self._open()

    def _open(self) -> None:
        steps = (Step * len(self._tape.steps))(*self._tape.steps)
        forms = (BufferForm * len(self._tape.buffers))(*(buffer.form for buffer in self._tape.buffers))
        message = ctypes.create_string_buffer(_MESSAGE_BYTES)
        self._runner: int | None = self._library.vitc_open(steps, len(steps), forms, len(forms), self._threads, message)
        self._process = os.getpid()
        if self._runner is None:
            raise BuildError(f"the native engine does not open with {self._threads} threads: {message.value.decode()}")

    def run(self, values: Mapping[str, Array], chunk: int) -> dict[str, Array]:
        """The trunk's inputs [B, N, C] to its outputs, which are views valid until the next call.

        `chunk` images go through all blocks before the next ones do.
        """
        if self._process != os.getpid():
            self._open()
        tape = self._tape
        images, tokens = self.size(values)
        chunk = min(chunk, images)
        rows = (BufferRow * len(tape.buffers))()
        for i, buffer in enumerate(tape.buffers):
            shape = (images if buffer.whole else chunk, tokens, buffer.width)
            if i not in self._arrays or self._arrays[i].shape != shape:
                self._arrays[i] = _allocated(shape, buffer.dtype)
            rows[i] = BufferRow(self._arrays[i].ctypes.data, self._arrays[i].nbytes)
        for name in self._trunk.inputs:
            own = self._arrays[tape.buffer_of[name]]  # a copy: it is added to in place
            value = values[name]
            if value.shape != own.shape or value.dtype != own.dtype:
                raise InputError(
                    f"{name!r} is {value.dtype} {list(value.shape)} where {own.dtype} {list(own.shape)} is needed"
                )
            own[...] = value
        message = ctypes.create_string_buffer(_MESSAGE_BYTES)
        if self._library.vitc_run(self._runner, rows, len(rows), images, tokens, chunk, message):
            raise InputError(f"the native engine could not run {images} images: {message.value.decode()}")
        return {name: self._arrays[tape.buffer_of[name]] for name in self._trunk.outputs}

    def size(self, values: Mapping[str, Array]) -> tuple[int, int]:
        """(images, tokens) of the trunk's first input. InputError where it has none."""
        shape = values[self._trunk.inputs[0]].shape
        if len(shape) != 3 or not 1 <= shape[1] <= MOST_TOKENS or not shape[0]:
            raise InputError(f"the native engine's blocks take [images, 1 to {MOST_TOKENS} tokens, width], got {shape}")
        return shape[0], shape[1]

    def close(self) -> None:
        runner, self._runner = self._runner, None
        # In a forked child the threads it would wait for are not there: its memory goes with the process.
        if runner is not None and self._process == os.getpid():
            self._library.vitc_close(runner)

    def __del__(self) -> None:
        if getattr(self, "_runner", None) is not None:
            self.close()


def _allocated(shape: tuple[int, ...], dtype: np.typing.DTypeLike) -> Array:
    try:
        return aligned(shape, dtype)
    except MemoryError as error:
        size = math.prod(shape) * np.dtype(dtype).itemsize
        raise InputError(
            f"a batch of {shape[0]} needs a buffer of {size} bytes, for which there is no memory; give fewer at a time"
        ) from error
