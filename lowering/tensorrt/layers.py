"""The table of an engine's layers: what a claim about an engine is proved with."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from vitc.lowering.tensorrt.kinds import Kind, kind_of
from vitc.lowering.tensorrt.layer_log import layers_from_log
from vitc.lowering.tensorrt.records import RawLayer, Tensor

__all__ = ["Kind", "Layer", "LayerTable", "Tensor", "module_of"]


@dataclass(frozen=True)
class Layer(RawLayer):
    """A layer, what it is, and the user's modules it came from."""

    kind: Kind
    modules: tuple[str, ...]

    @classmethod
    def of(cls, raw: RawLayer) -> Layer:
        """The layer with its kind and modules worked out."""
        modules = tuple(dict.fromkeys(module for node in raw.nodes if (module := module_of(node))))
        return cls(**vars(raw), kind=kind_of(raw), modules=modules)


@dataclass(frozen=True)
class LayerTable:
    """An engine's layers in the order they run."""

    layers: tuple[Layer, ...]

    @classmethod
    def from_log(cls, messages: Iterable[str]) -> LayerTable:
        """From a VERBOSE build log; empty where it describes no engine."""
        return cls(tuple(Layer.of(raw) for raw in layers_from_log(messages)))

    def of(self, kind: Kind) -> tuple[Layer, ...]:
        """The layers of one kind."""
        return tuple(layer for layer in self.layers if layer.kind is kind)

    def under(self, module: str) -> LayerTable:
        """The layers that hold some of the user's module `module` ("blocks.0"), or of one inside it."""
        return LayerTable(
            tuple(
                layer
                for layer in self.layers
                if any(path == module or path.startswith(f"{module}.") for path in layer.modules)
            )
        )

    def summary(self) -> dict[str, int]:
        """How many layers there are of each kind that occurs, in the order of `Kind`."""
        counts = Counter(layer.kind for layer in self.layers)
        return {kind.value: counts[kind] for kind in Kind if counts[kind]}

    def unscaled_half(self) -> tuple[Layer, ...]:
        """INT8 GEMMs that hand on their bare INT32 sums as FP16, which is infinite beyond 65504.

        It happens where the weights' scales are FP16 and one per output channel: the GEMM has one scale only,
        so a following kernel applies them, and names the same ONNX nodes. See
        docs/decisions/0010-tensorrt-spelling.md.
        """
        producers = {tensor.name: layer for layer in self.layers for tensor in layer.outputs}
        found = []
        for layer in self.layers:
            for tensor in layer.inputs:
                gemm = producers.get(tensor.name)
                if gemm is None or gemm.kind is not Kind.INT8_GEMM or tensor.dtype != "float16":
                    continue
                if set(gemm.nodes) & set(layer.nodes):
                    found.append(gemm)
        return tuple(dict.fromkeys(found))

    def to_rows(self) -> list[dict[str, Any]]:
        """One dictionary a layer, plain enough for JSON and for a printed table."""
        return [
            {
                "name": layer.name,
                "kind": layer.kind.value,
                "type": layer.type,
                "inputs": [_text(tensor) for tensor in layer.inputs],
                "outputs": [_text(tensor) for tensor in layer.outputs],
                "tactic": layer.tactic,
                "nodes": list(layer.nodes),
                "modules": list(layer.modules),
            }
            for layer in self.layers
        ]


def module_of(node: str) -> str:
    """The user's module path in an ONNX node's name: "/blocks.0/attn/qkv/MatMul" -> "blocks.0.attn.qkv".

    "" for a node that belongs to no module ("/Add"), or whose name is no path.
    """
    if not node.startswith("/"):
        return ""
    return re.sub(r"/", ".", node[1:].rpartition("/")[0])


def _text(tensor: Tensor) -> str:
    return f"{tensor.dtype}{list(tensor.shape)}"
