"""ONNX Runtime as a CPU engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitc.errors import BuildError, InputError, missing
from vitc.lowering.cpu.engine import Array, no_longer_open
from vitc.lowering.cpu.machine import int8_saturates
from vitc.lowering.cpu.prepare import Prepared


class OnnxRuntimeEngine:
    """`InferenceSession.run` is thread-safe by contract, so nothing is locked here."""

    name = "onnxruntime"
    remark = ""

    def __init__(self, model: Prepared, threads: int | None = None) -> None:
        ort = _import()
        self.version: str = ort.__version__
        options = ort.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        if int8_saturates():
            # AVX2's vpmaddubsw adds two u8 x s8 products in 16 bits and saturates: large weights under large
            # activations come out wrong by up to 100 %. This makes the weights unsigned, whose kernel is
            # exact.
            options.add_session_config_entry("session.x64quantprecision", "1")
        try:
            self._session: Any = ort.InferenceSession(
                model.model if isinstance(model.model, bytes) else str(model.model),
                options,
                providers=["CPUExecutionProvider"],
            )
        # ONNX Runtime's exceptions share no base but this one.
        except Exception as error:
            raise BuildError(f"ONNX Runtime {self.version} could not load the model: {error}") from error
        self.inputs = model.inputs
        self.outputs = model.outputs

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        session = self._session
        if session is None:
            raise InputError(no_longer_open(self.name))
        names = [port.name for port in self.outputs]
        try:
            return dict(zip(names, session.run(names, dict(feeds)), strict=True))
        except Exception as error:  # as above; from a message that is no text also UnicodeDecodeError
            raise BuildError(f"ONNX Runtime {self.version} could not run the model: {error}") from error

    def close(self) -> None:
        self._session = None


def _import() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise missing("onnxruntime", "the CPU engine 'onnxruntime'") from error
    return onnxruntime
