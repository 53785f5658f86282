"""The CPU engines: the same ONNX file as for every other engine, run by ONNX Runtime, OpenVINO or vitc's own kernels.

`open_engine` takes the file, rewrites a copy of it into what the engine does best
(docs/decisions/0030-cpu-engine.md has the measurements), and gives an `Engine`. Needs neither torch nor,
until an engine is opened, onnx.

machine             what this processor has for INT8
choose              which engine runs a model here
prepare             the ONNX file as an engine wants it, by the four below
graph               small questions about an ONNX graph
precision           FP16 becomes FP32
quantization        INT8 in the engine's spelling
attention           vitc::VitAttention as ONNX Runtime's fused attention
engine              what every CPU engine is
onnxruntime_engine  ONNX Runtime as one
openvino_engine     OpenVINO as one
native/             vitc's own INT8 kernels as one
rates               how fast each engine is here, measured, for targets that do not say
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
