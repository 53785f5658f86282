"""The CPU engines: the same ONNX file as for every other engine, run by ONNX Runtime, OpenVINO or vitc's own INT8
kernels (`native`) in this process.

`open_engine` takes the file, rewrites a copy of it into what the engine does best
(docs/decisions/0030-cpu-engine.md has the measurements), and gives an `Engine`. Needs neither torch nor,
until an engine is opened, onnx.
"""

from __future__ import annotations

from vitc.lowering.cpu.choose import (
    ENGINES,
    NATIVE,
    available,
    native_refusal,
    open_engine,
    preferred,
    rank_engines,
)
from vitc.lowering.cpu.engine import Engine, Port

__all__ = [
    "ENGINES",
    "NATIVE",
    "Engine",
    "Port",
    "available",
    "native_refusal",
    "open_engine",
    "preferred",
    "rank_engines",
]
