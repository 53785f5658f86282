"""The blocks, ready to run: a tape, its buffers and the threads."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

from vitc.errors import InputError, InternalError
from vitc.lowering.cpu.engine import Array
from vitc.lowering.cpu.native.library import load
from vitc.lowering.cpu.native.match import Trunk
from vitc.lowering.cpu.native.tape import BufferRow, Step, aligned, write_tape


class Blocks:
    """One call at a time: the caller holds a lock. Buffers are kept for the next call of the same size."""

    def __init__(self, trunk: Trunk, threads: int, portable: bool = False) -> None:
        """Raises BuildError, MissingDependencyError (see `library.load`)."""
        self._library = load(portable)
        if ctypes.sizeof(Step) != self._library.vitc_step_bytes():
            raise InternalError("struct Step differs between tape.py and engine.cpp")
        self._trunk = trunk
        self._tape = write_tape(trunk)
        steps = (Step * len(self._tape.steps))(*self._tape.steps)
        self._runner: int | None = self._library.vitc_open(steps, len(steps), threads)
        self._arrays: dict[int, Array] = {}

    def run(self, values: Mapping[str, Array], chunk: int) -> dict[str, Array]:
        """The trunk's inputs [B, N, C] to its outputs, which are views valid until the next call.

        `chunk` images go through all blocks before the next ones do.
        """
        tape = self._tape
        images, tokens = values[self._trunk.inputs[0]].shape[:2]
        chunk = min(chunk, images)
        rows = (BufferRow * len(tape.buffers))()
        for i, buffer in enumerate(tape.buffers):
            shape = (images if buffer.whole else chunk, tokens, buffer.width)
            if i not in self._arrays or self._arrays[i].shape != shape:
                self._arrays[i] = aligned(shape, buffer.dtype)
            rows[i] = BufferRow(self._arrays[i].ctypes.data, buffer.row_bytes, int(buffer.whole))
        for name in self._trunk.inputs:
            own = self._arrays[tape.buffer_of[name]]  # a copy: it is added to in place
            if values[name].shape != own.shape:
                raise InputError(f"{name!r} has the shape {values[name].shape} where {own.shape} is needed")
            own[...] = values[name]
        self._library.vitc_run(self._runner, rows, images, tokens, chunk)
        return {name: self._arrays[tape.buffer_of[name]] for name in self._trunk.outputs}

    def close(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            self._library.vitc_close(runner)

    def __del__(self) -> None:
        if getattr(self, "_runner", None) is not None:
            self.close()
