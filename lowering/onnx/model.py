"""Program → ONNX ModelProto."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import helper
from torch.fx import Node

from vitc.errors import LoweringError
from vitc.graph.nodes import constant, is_constant, is_tensor, shape_of, val
from vitc.graph.program import Program
from vitc.lowering.onnx import (  # noqa: F401  they register their handlers
    ops_create,
    ops_elementwise,
    ops_index,
    ops_nn,
    ops_pool,
    ops_reduce,
    ops_shape,
    ops_vitc,
)
from vitc.lowering.onnx.emitter import ONNX_TYPES, OPSET, Emitter
from vitc.lowering.onnx.functions import functions_of

#: ONNX opset 20 belongs to IR 9; overloads of functions came with IR 10.
_IR, _IR_WITH_OVERLOADS = 9, 10
#: Protobuf's limit; larger models keep their weights in a file beside.
_EXTERNAL_ABOVE = 2**31 - 2**24


@dataclass(frozen=True)
class TensorSpec:
    """One input or output: name, torch dtype, and shape with 'batch' where dynamic."""

    name: str
    dtype: torch.dtype
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class OnnxModel:
    """The lowered program.

    proto:   the ONNX model.
    inputs:  in the program's order.
    outputs: `outputs[i]` is the i-th tensor of the program's flat outputs.
    origins: ONNX node → the program's node that it was emitted for.
    """

    proto: onnx.ModelProto
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    origins: Mapping[str, str] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Writes model.onnx; weights above 2 GB go to model.onnx.data beside it."""
        external = weight_bytes(self.proto) > _EXTERNAL_ABOVE
        onnx.save_model(
            self.proto, str(path), save_as_external_data=external, location=f"{path.name}.data" if external else None
        )
        if external:  # onnx moves the weights into the file: take them back
            onnx.load_external_data_for_model(self.proto, str(path.parent))


def weight_bytes(proto: onnx.ModelProto) -> int:
    return sum(len(t.raw_data) for t in proto.graph.initializer)


def lower(program: Program, name: str = "vitc") -> OnnxModel:
    """The ONNX model of a tiled or quantized program. Raises LoweringError for a node without an ONNX form."""
    if program.stage not in ("tiled", "quantized"):
        raise LoweringError(
            f"lowering needs stage 'tiled' or 'quantized', the program is at {program.stage!r}; run 'tile-attention'"
        )
    emitter = Emitter(program.module)
    inputs, outputs = [], []
    for node in program.graph.nodes:
        if node.op == "placeholder":
            emitter.names[node] = node.name
            inputs.append(TensorSpec(node.name, val(node).dtype, _dims(node, program)))
        elif node.op == "call_function":
            emitter.emit(node)
        elif node.op == "output":
            outputs = _outputs(emitter, node, program)
    read = {name for node in emitter.nodes for name in node.input}
    graph = helper.make_graph(
        emitter.nodes,
        name,
        [_info(s) for s in inputs],
        [_info(s) for s in outputs],
        [i for i in emitter.initializers.values() if i.name in read],
    )
    proto = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid("vitc", 1)],
        functions=functions_of(emitter.signatures, OPSET),
        ir_version=_IR_WITH_OVERLOADS if len(emitter.signatures) > 1 else _IR,
        producer_name="vitc",
    )
    return OnnxModel(proto, tuple(inputs), tuple(outputs), emitter.origins)


def _outputs(emitter: Emitter, output: Node, program: Program) -> list[TensorSpec]:
    specs = []
    leaves: Any = output.args[0]
    names = output_names(leaves)
    for leaf, name in zip([n for n in leaves if is_tensor(n)], names, strict=True):
        emitter._node = leaf
        if is_constant(leaf):
            source = emitter.initializer(str(leaf.target), constant(emitter.module, leaf))
        else:
            source = emitter.value(leaf)
        emitter.nodes.append(helper.make_node("Identity", [source], [name], name=emitter.unique(f"/output/{name}")))
        specs.append(TensorSpec(name, val(leaf).dtype, _dims(leaf, program)))
    if not specs:
        raise LoweringError("the model returns no tensor")
    return specs


def output_names(leaves: Any) -> list[str]:
    """'output' for one tensor, 'output_0', 'output_1' … for several."""
    count = sum(is_tensor(n) for n in leaves)
    return ["output"] if count == 1 else [f"output_{i}" for i in range(count)]


def _dims(node: Node, program: Program) -> tuple[int | str, ...]:
    """Dynamic sizes by name: 'batch', or as the exported program calls them; what derives from them keeps its
    expression."""
    names: list[int | str] = []
    for size in shape_of(node):
        if isinstance(size, int):
            names.append(size)
            continue
        text = re.sub(r"[A-Za-z_]\w*", lambda m: program.dims[m[0]].name if m[0] in program.dims else m[0], str(size))
        names.append(text if text.isidentifier() else f"dim({text})")
    return tuple(names)


def _info(spec: TensorSpec) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(spec.name, ONNX_TYPES[spec.dtype], list(spec.shape))
