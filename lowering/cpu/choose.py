"""Which engine runs a model on this machine."""

from __future__ import annotations

import importlib.util
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vitc.errors import BuildError, InputError, MissingDependencyError, unknown
from vitc.lowering.cpu.engine import Array, Engine
from vitc.lowering.cpu.machine import cpu_flags, int8_dot
from vitc.lowering.cpu.native.library import unavailable
from vitc.lowering.cpu.onnxruntime_engine import OnnxRuntimeEngine
from vitc.lowering.cpu.openvino_engine import OpenVinoEngine
from vitc.lowering.cpu.prepare import Prepared, load, prepared_proto

if TYPE_CHECKING:
    import onnx

    from vitc.lowering.gate.tensors import Read

#: The libraries, which take any model. `native`, vitc's own, takes INT8 models on AVX512-VNNI.
ENGINES = ("onnxruntime", "openvino")
NATIVE = "native"

_CLASSES: dict[str, Callable[[Prepared, int | None], Engine]] = {
    "onnxruntime": OnnxRuntimeEngine,
    "openvino": OpenVinoEngine,
}


def available() -> dict[str, str | None]:
    """Each engine, and why it can't be used here (None: it can)."""
    reasons: dict[str, str | None] = {}
    for name in ENGINES:
        absent = [package for package in (name, "onnx") if importlib.util.find_spec(package) is None]
        reasons[name] = f"not installed: pip install {' '.join(absent)}" if absent else None
    return reasons


def preferred() -> str:
    """The engine `auto` means here: what the measurements say for this processor, if it is installed.

    On x86 with VNNI OpenVINO is the faster in FP32 and INT8; without VNNI, and on ARM, ONNX Runtime is, and
    its INT8 is exact. See docs/decisions/0030-cpu-engine.md.
    """
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    order = ("openvino", "onnxruntime") if x86 and int8_dot() else ("onnxruntime", "openvino")
    reasons = available()
    for name in order:
        if reasons[name] is None:
            return name
    raise MissingDependencyError(
        "running a model on the CPU needs an engine, and none is installed: "
        + "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    )


def native_refusal(proto: onnx.ModelProto | None = None) -> str | None:
    """Why `auto` does not run INT8 models (or this one, FP32 but for its integers) on the native engine here; None: it
    does."""
    reason = unavailable()
    if reason is None and "amx_int8" in cpu_flags():
        reason = "this processor has AMX, whose INT8 product is faster than VNNI's, and OpenVINO uses it"
    if reason is not None or proto is None:
        return reason
    from vitc.lowering.cpu.native.match import Unsuitable, match

    try:
        match(proto.graph)
    except Unsuitable as error:
        return str(error)
    return None


def open_engine(
    model: Path | str | bytes, engine: str = "auto", threads: int | None = None, read: Read | None = None
) -> Engine:
    """An engine for an ONNX model, given by path or bytes (over 2 GB: by path, with its external data beside it).

    engine:  `onnxruntime`, `openvino`, `native`, or `auto`: native where it takes the model, else see `preferred`; the
             engine's `remark` says why not native.
    threads: how many to compute with; None: what the engine takes by default, all cores.
    read:    gives the bytes of external data by their location; None: they lie beside the path.

    Raises InputError for an unknown engine, or a number of threads that no engine should have,
    MissingDependencyError where the engine, or onnx, is not installed, BuildError where the engine refuses the model.
    """
    _check_threads(threads)
    if engine not in (*ENGINES, NATIVE, "auto"):
        raise InputError(unknown("CPU engine", engine, (*ENGINES, NATIVE, "auto")))
    library = engine if engine in ENGINES else preferred()
    proto = load(model if isinstance(model, bytes) else Path(model), read)
    if engine == NATIVE:
        return _open_native(proto, library, threads)
    remark = ""
    if engine == "auto" and any(node.op_type == "QuantizeLinear" for node in proto.graph.node):
        try:
            if (refusal := native_refusal()) is None:
                return _open_native(proto, library, threads)
        except (BuildError, MissingDependencyError) as error:
            refusal = str(error)
        remark = f"not the native engine: {refusal}"
    opened = _open_library(proto, library, threads)
    opened.remark = remark
    return opened


def _check_threads(threads: int | None) -> None:
    """More than a few for each core only wait for each other, and thousands end the process."""
    most = max(64, 4 * (os.cpu_count() or 1))
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= most):
        raise InputError(
            f"an engine takes at least 1 thread and here at most {most}, got {threads}; None takes all cores"
        )


def _open_library(proto: onnx.ModelProto, name: str, threads: int | None) -> Engine:
    with prepared_proto(proto, name) as ready:
        return _CLASSES[name](ready, threads)


def _open_native(proto: onnx.ModelProto, library: str, threads: int | None) -> Engine:
    from vitc.lowering.cpu.native.engine import NativeEngine
    from vitc.lowering.cpu.native.match import Unsuitable
    from vitc.lowering.cpu.precision import widen

    if (reason := unavailable()) is not None:
        raise MissingDependencyError(f"the engine 'native' can't be used here: {reason}")
    widen(proto)
    try:
        return NativeEngine(proto, lambda part: _open_library(part, library, threads), threads)
    except Unsuitable as error:
        raise BuildError(
            f"the engine 'native' does not take the model: {error}; 'openvino' and 'onnxruntime' do"
        ) from error


def rank_engines(
    model: Path | str | bytes, feeds: Mapping[str, Array], threads: int | None = None, rounds: int = 5
) -> dict[str, float]:
    """Seconds for one inference on each library engine installed here, fastest first.

    The engines take turns, so that what else the machine does falls on all alike; the figure is the least of
    `rounds` turns, each preceded by a call that is not counted.
    """
    engines = [open_engine(model, name, threads) for name, reason in available().items() if reason is None]
    best = {engine.name: float("inf") for engine in engines}
    for _ in range(rounds):
        for engine in engines:
            engine.run(feeds)
            start = time.perf_counter()
            engine.run(feeds)
            best[engine.name] = min(best[engine.name], time.perf_counter() - start)
    for engine in engines:
        engine.close()
    return dict(sorted(best.items(), key=lambda item: item[1]))
