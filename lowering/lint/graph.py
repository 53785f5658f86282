"""An ONNX graph with what the rules ask of it: who makes and reads a tensor, its type, what is constant, whose
module."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

import onnx
import onnx.inliner
from onnx import TensorProto, helper

from vitc.lowering.cpu.graph import GraphIndex
from vitc.lowering.gate.limits import MOVES, NAME
from vitc.lowering.gate.structure import is_known_type
from vitc.lowering.tensorrt.layers import module_of

#: Bytes. No scale, zero point, index or shape of a Vision Transformer is larger.
LARGE = 2**18
_KNOWN_DOMAINS = ("", "ai.onnx", "com.microsoft", "vitc")
#: Nodes that are looked at for who reads a tensor.
_MOST_READERS = 1_000
#: They move elements and do not look at them.
MOVEMENT = frozenset(
    {
        "Transpose",
        "Reshape",
        "Squeeze",
        "Unsqueeze",
        "Flatten",
        "Slice",
        "Split",
        "Gather",
        "Identity",
        "Cast",
        "Expand",
    }
)
SPLITTING = frozenset({"Split", "Slice", "Gather"})


class LintGraph:
    """Names every unnamed node of `proto` (in place), so that each can be found again."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.proto = proto
        self.nodes = list(proto.graph.node)
        for i, node in enumerate(self.nodes):
            node.name = node.name or f"{node.op_type}_{i}"
        self.index = GraphIndex(proto.graph)
        self.constants = set(self.index.initializers)
        for node in self.nodes:
            inputs = [name for name in node.input if name]
            if node.op_type == "Constant" or (inputs and all(name in self.constants for name in inputs)):
                self.constants.update(node.output)
        self._types = _types(proto)

    def producer(self, name: str) -> onnx.NodeProto | None:
        return self.index.producer.get(name)

    def readers(self, name: str) -> list[onnx.NodeProto]:
        return self.index.readers.get(name, [])

    def readers_past(self, name: str, ops: frozenset[str] = MOVEMENT) -> Iterator[onnx.NodeProto]:
        """The nodes that read `name`, past those that only move it: `ops`."""
        todo = [name]
        seen: set[int] = set()
        while todo:
            for node in self.readers(todo.pop()):
                if id(node) in seen or len(seen) == _MOST_READERS:
                    continue
                seen.add(id(node))
                if node.op_type in ops:
                    todo += node.output
                else:
                    yield node

    def origin(self, name: str, ops: frozenset[str] = MOVEMENT) -> onnx.NodeProto | None:
        """The node that computes `name`, past those that only move it; None for inputs and initializers."""
        node = self.producer(name)
        for _ in range(MOVES):
            if node is None or node.op_type not in ops:
                break
            node = self.producer(node.input[0])
        return node

    def dtype(self, name: str) -> str:
        """ "float16", "int8" …; "" where it can't be inferred."""
        kind = self._types.get(name, (0, None))[0]
        return str(helper.tensor_dtype_to_np_dtype(kind)) if is_known_type(kind) else ""

    def rank(self, name: str) -> int | None:
        return self._types.get(name, (0, None))[1]

    def module(self, node: onnx.NodeProto) -> str:
        """The user's module path: from the node's name, or from what torch's exporter notes beside it; "" if
        neither."""
        for entry in node.metadata_props:
            if entry.key == "pkg.torch.onnx.name_scopes":
                scopes = [scope for scope in _scopes(entry.value)[:-1] if scope]
                return scopes[-1] if scopes else ""
        return module_of(node.name)


def _scopes(text: str) -> list[str]:
    """The list of names that torch's exporter wrote; empty where it is none."""
    try:
        found = ast.literal_eval(text) if len(text) <= NAME else None
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        found = None
    return found if isinstance(found, list) and all(isinstance(name, str) for name in found) else []


def scale_of(attributes: dict[str, Any], name: str) -> float:
    """A scale of vitc::VitAttention; 0, which is floating point, where there is none."""
    value = attributes.get(name)
    return value if isinstance(value, float) else 0.0


def flattened(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model, changed in place, as one graph: calls of local functions (but vitc's own, which engines know by name)
    written out, and the nodes of the bodies of If, Loop and Scan beside those that hold them. ONNX forbids a name to
    stand for two tensors in nested bodies, so nothing is mixed up."""
    if any((f.domain, f.name) != ("vitc", "VitAttention") for f in proto.functions):
        proto = onnx.inliner.inline_selected_functions(proto, [("vitc", "VitAttention")], exclude=True)
    bodies = list(_bodies(proto.graph))
    for body in bodies:
        proto.graph.node.extend(body.node)
        proto.graph.initializer.extend(body.initializer)
        proto.graph.value_info.extend((*body.value_info, *body.input, *body.output))
    return proto


def _bodies(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    for node in graph.node:
        for attribute in node.attribute:
            for body in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                yield body
                yield from _bodies(body)


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """The values by name; those that a function's caller gives are left out."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute if a.type and not a.ref_attr_name}


def without_weights(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which large initializers keep name, type and shape, and lose their values."""
    graph = onnx.GraphProto(name=proto.graph.name)
    graph.node.extend(proto.graph.node)
    for node in graph.node:
        if node.domain not in _KNOWN_DOMAINS:
            node.op_type = f"{node.domain}::{node.op_type}"  # whatever its name, it is not ONNX's operator
    graph.input.extend(proto.graph.input)
    graph.output.extend(proto.graph.output)
    graph.value_info.extend(proto.graph.value_info)
    for tensor in proto.graph.initializer:
        if len(tensor.raw_data) > LARGE:
            tensor = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        graph.initializer.append(tensor)
    model = onnx.ModelProto(ir_version=proto.ir_version, graph=graph)
    model.opset_import.extend(proto.opset_import)
    model.functions.extend(proto.functions)
    return model


def _types(proto: onnx.ModelProto) -> dict[str, tuple[int, int | None]]:
    """Element type and rank of each tensor where they can be inferred."""
    try:
        graph = onnx.shape_inference.infer_shapes(proto).graph
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        graph = proto.graph  # what the file states itself
    found: dict[str, tuple[int, int | None]] = {t.name: (t.data_type, len(t.dims)) for t in proto.graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        found.setdefault(value.name, (tensor.elem_type, len(tensor.shape.dim) if tensor.HasField("shape") else None))
    for node in proto.graph.node:  # what inference does not know of: vitc's own operator
        if node.op_type != "VitAttention" or not node.input or not node.output:
            continue
        if found.get(node.output[0], (0, None))[0] == TensorProto.UNDEFINED:
            int8 = scale_of(attributes(node), "out_scale") > 0
            read = found.get(node.input[0], (0, None))[0]
            found[node.output[0]] = (
                TensorProto.INT8 if int8 else TensorProto.FLOAT16 if read == TensorProto.INT8 else read,
                3,
            )
    return found
