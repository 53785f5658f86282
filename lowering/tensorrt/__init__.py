"""ONNX to a TensorRT engine, for the `tensorrt` and the `tensorrt_rtx` distribution alike.

Needs neither torch nor onnx, and imports a TensorRT only when one is asked for.
"""

from __future__ import annotations

from vitc.lowering.tensorrt.api import available, find, load, require_version
from vitc.lowering.tensorrt.engine import Engine, Profile, build_engine
from vitc.lowering.tensorrt.layers import Kind, Layer, LayerTable, Tensor

__all__ = [
    "Engine",
    "Kind",
    "Layer",
    "LayerTable",
    "Profile",
    "Tensor",
    "available",
    "build_engine",
    "find",
    "load",
    "require_version",
]
