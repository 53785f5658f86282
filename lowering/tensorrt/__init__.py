"""ONNX to a TensorRT engine, for the `tensorrt` and the `tensorrt_rtx` distribution alike.

Needs neither torch nor onnx, and imports a TensorRT only when one is asked for.

api         which TensorRT is here
logger      the one logger that a process may have
network     a strongly typed network from an ONNX file
capability  building for a device that is not here
elf_alias   a shared object that lets one library answer for another
engine      the build: an engine, and the table of its layers
records     what a layer is made of, as TensorRT states it
layer_log   reads layers from the log and from EngineInspector
kinds       what a layer is, to someone who asks whether INT8 arrived
layers      the table
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
