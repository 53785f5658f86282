"""OpenVINO as a CPU engine."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

from vitc.errors import BuildError, InputError, missing
from vitc.lowering.cpu.engine import Array, no_longer_open
from vitc.lowering.cpu.prepare import Prepared


class OpenVinoEngine:
    """An infer request serves one call at a time, so each call takes one from a pool that grows to the
    number of threads calling at once.
    """

    name = "openvino"
    remark = ""

    def __init__(self, model: Prepared, threads: int | None = None) -> None:
        ov = _import()
        self.version: str = ov.__version__
        # One stream over all threads: the answer to one image as early as can be.
        # f32: on a processor with AMX or AVX512_BF16 OpenVINO would compute in BF16 unasked (error 4e-2 on a ViT).
        config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        if threads is not None:
            config["INFERENCE_NUM_THREADS"] = threads
        core = _core()
        try:
            network = core.read_model(model.model if isinstance(model.model, bytes) else str(model.model))
            self._compiled: Any = core.compile_model(network, "CPU", config)
        # RuntimeError by contract; a message that is no text makes it a UnicodeDecodeError.
        except (RuntimeError, ValueError) as error:
            raise BuildError(f"OpenVINO {self.version} could not load the model: {error}") from error
        # An input that the graph does not use is gone from it, and is not fed.
        self._fed = frozenset(name for port in self._compiled.inputs for name in port.names)
        self.inputs = model.inputs
        self.outputs = model.outputs
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        with self._request() as request:
            # share_inputs: the arrays outlive this call, so they need not be copied in. The results must be
            # copied out, before another call writes over them.
            used = {name: array for name, array in feeds.items() if name in self._fed}
            try:
                results = request.infer(used, share_inputs=True, share_outputs=True)
            except RuntimeError as error:
                raise BuildError(f"OpenVINO {self.version} could not run the model: {error}") from error
            return {port.name: np.array(results[i]) for i, port in enumerate(self.outputs)}

    @contextmanager
    def _request(self) -> Iterator[Any]:
        compiled = self._compiled
        if compiled is None:
            raise InputError(no_longer_open(self.name))
        try:
            request = self._idle.get_nowait()
        except queue.Empty:
            request = compiled.create_infer_request()
        try:
            yield request
        finally:
            self._idle.put(request)

    def close(self) -> None:
        self._compiled = None
        self._idle = queue.SimpleQueue()


@cache
def _core() -> Any:
    """One for the process, never destroyed. Each Core gives its thread another stack for signal handlers and takes it
    away with itself; if two end in the order in which they began, the next signal with a Python handler ends the
    process."""
    return _import().Core()


def _import() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise missing("openvino", "the CPU engine 'openvino'") from error
    return openvino
