"""What an engine's layer is made of, as TensorRT states it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tensor:
    """A tensor at a layer's border. -1 in the shape is the dynamic batch, or what it was folded into."""

    name: str
    dtype: str
    """"int8", "float16", "float32", …"""
    shape: tuple[int, ...]


@dataclass(frozen=True)
class RawLayer:
    """One layer of an engine."""

    name: str
    type: str
    """TensorRT's own word: "gemm", "kgen", "custom_layer", "CaskConvolution", …"""
    tactic: str
    inputs: tuple[Tensor, ...]
    constants: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    nodes: tuple[str, ...]
    """The ONNX nodes it came from."""
