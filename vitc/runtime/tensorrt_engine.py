"""A built TensorRT engine, run with NumPy arrays. The same protocol as the CPU engines'."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from vitc.errors import BuildError, InputError
from vitc.kernels import python_plugin
from vitc.lowering.cpu.engine import Array, Port
from vitc.lowering.tensorrt.logger import build_log
from vitc.runtime.cuda import Cuda


class TensorRtEngine:
    """One execution context on one stream: calls from several threads are taken one after the other.

    `trt` is the module the engine was built with (`tensorrt` or `tensorrt_rtx`), `plan` the serialized
    engine.
    """

    def __init__(self, trt: Any, plan: bytes, cuda: Cuda | None = None) -> None:
        self.name: str = trt.__name__
        self.remark = ""
        self.version: str = trt.__version__
        self._cuda = Cuda() if cuda is None else cuda
        python_plugin.register(trt)
        # The engine points into the runtime: it must live as long.
        self._runtime = trt.Runtime(build_log(trt).logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise BuildError(
                f"{self.name} {self.version} could not load the engine: built for another device or version; "
                f"build it again on this one"
            )
        self._context = self._engine.create_execution_context()
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        modes = {name: self._engine.get_tensor_mode(name) for name in names}
        self.inputs = tuple(self._port(trt, name) for name in names if modes[name] == trt.TensorIOMode.INPUT)
        self.outputs = tuple(self._port(trt, name) for name in names if modes[name] == trt.TensorIOMode.OUTPUT)
        self._lock = threading.Lock()
        self._buffers: dict[str, tuple[int, int]] = {}

    def _port(self, trt: Any, name: str) -> Port:
        dtype = np.dtype(trt.nptype(self._engine.get_tensor_dtype(name))).name
        shape = tuple("batch" if size < 0 else int(size) for size in self._engine.get_tensor_shape(name))
        return Port(name, dtype, shape)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        with self._lock:
            if self._context is None:
                raise InputError("the tensorrt engine is closed; load the bundle again with vitc.runtime.load")
            self._cuda.enter()
            for port in self.inputs:
                array = feeds[port.name]
                if not self._context.set_input_shape(port.name, array.shape):
                    raise InputError(f"the engine does not take {port.name!r} with shape {list(array.shape)}")
                self._cuda.to_device(self._buffer(port.name, array.nbytes), array)
            outputs = {
                port.name: np.empty(tuple(self._context.get_tensor_shape(port.name)), port.dtype)
                for port in self.outputs
            }
            for name, array in outputs.items():
                self._buffer(name, array.nbytes)
            if not self._context.execute_async_v3(self._cuda.stream):
                raise BuildError(f"{self.name} {self.version} refused to run the engine; its log says why")
            for name, array in outputs.items():
                self._cuda.to_host(array, self._buffers[name][0])
            self._cuda.synchronize()
            return outputs

    def _buffer(self, name: str, size: int) -> int:
        """Device memory for a tensor, kept between calls and only ever made larger."""
        pointer, capacity = self._buffers.get(name, (0, -1))
        if capacity < size:
            if capacity >= 0:
                self._cuda.free(pointer)
            pointer = self._cuda.allocate(size)
            self._buffers[name] = (pointer, size)
        self._context.set_tensor_address(name, pointer)
        return pointer

    def close(self) -> None:
        with self._lock:
            self._cuda.enter()
            for pointer, _ in self._buffers.values():
                self._cuda.free(pointer)
            self._buffers = {}
            self._context = self._engine = self._runtime = None
