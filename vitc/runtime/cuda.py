"""The few calls of the CUDA driver that running an engine takes, by ctypes: the driver is there wherever a
GPU is, so a Jetson needs no Python package for it.

Signatures as in cuda.h of CUDA 12 and 13; `_v2` is the 64-bit form.
"""

from __future__ import annotations

import ctypes
from typing import Any

from vitc.errors import BuildError
from vitc.lowering.cpu.engine import Array


class Cuda:
    """Device 0: memory, one stream, and copies on it. Every method may raise BuildError with the driver's
    own word.
    """

    def __init__(self, library: Any = None) -> None:
        self._lib = _library() if library is None else library
        self._call("cuInit", 0)
        device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        self._context = ctypes.c_void_p()
        # The primary context is the one TensorRT uses.
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)
        self.enter()
        stream = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(stream), 0)
        self.stream: int = stream.value or 0

    def enter(self) -> None:
        """Makes the device this thread's: needed once in each thread that uses it."""
        self._call("cuCtxSetCurrent", self._context)

    def allocate(self, size: int) -> int:
        """`size` bytes of device memory; its address."""
        pointer = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(max(size, 1)))
        return pointer.value

    def free(self, pointer: int) -> None:
        self._call("cuMemFree_v2", ctypes.c_uint64(pointer))

    def to_device(self, pointer: int, array: Array) -> None:
        self._copy("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(pointer), array.ctypes.data_as(ctypes.c_void_p), array)

    def to_host(self, array: Array, pointer: int) -> None:
        self._copy("cuMemcpyDtoHAsync_v2", array.ctypes.data_as(ctypes.c_void_p), ctypes.c_uint64(pointer), array)

    def _copy(self, name: str, to: Any, source: Any, array: Array) -> None:
        self._call(name, to, source, ctypes.c_size_t(array.nbytes), ctypes.c_void_p(self.stream))

    def synchronize(self) -> None:
        """Waits for all that was put on the stream."""
        self._call("cuStreamSynchronize", ctypes.c_void_p(self.stream))

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._lib, name)(*arguments)
        if code != 0:
            text = ctypes.c_char_p()
            self._lib.cuGetErrorString(code, ctypes.byref(text))
            raise BuildError(f"CUDA: {name} failed with {code}: {(text.value or b'no text').decode()}")


def _library() -> Any:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise BuildError(
            f"running a TensorRT engine needs an NVIDIA driver, and there is none here ({error})"
        ) from error
