"""Any ONNX file as records, with types by ONNX's own inference, operations and bytes by arithmetic on shapes."""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from vitc.errors import InputError
from vitc.explorer.records import Node, Step, Value, Weight

_DTYPES = {
    TensorProto.FLOAT: "f32", TensorProto.FLOAT16: "f16", TensorProto.BFLOAT16: "bf16", TensorProto.DOUBLE: "f64",
    TensorProto.INT8: "i8", TensorProto.UINT8: "u8", TensorProto.INT32: "i32", TensorProto.INT64: "i64",
    TensorProto.BOOL: "bool",
}  # fmt: skip
#: Literals this small are shown by value.
_SMALL = 8
_PRODUCTS = ("MatMul", "Gemm", "Conv", "MatMulInteger", "ConvInteger", "QLinearMatMul", "QLinearConv")
_BITS = {"f32": "fp32", "f64": "fp32", "f16": "fp16", "bf16": "fp16", "i8": "int8", "u8": "int8"}


def read_onnx(path: str | Path) -> onnx.ModelProto:
    """The model of a file; weights that lie beside it are not read. Raises InputError."""
    try:
        return onnx.load(str(path), load_external_data=False)
    except FileNotFoundError:
        raise InputError(f"there is no ONNX file {str(path)!r}") from None
    except Exception as error:  # protobuf raises its own kinds
        raise InputError(f"{str(path)!r} is no ONNX file: {error}") from error


def step_of(proto: onnx.ModelProto, title: str = "ONNX") -> Step:
    """The graph of a model. Nodes without a name get their operator and number."""
    graph = proto.graph
    types = _types(proto)
    constants = {t.name: t for t in graph.initializer}
    makers: dict[str, str] = {}
    nodes: list[Node] = []
    shapes: dict[str, Mapping[str, Any]] = {}
    for value in graph.input:
        if value.name not in constants:
            makers[value.name] = value.name
            nodes.append(Node(value.name, "input", type=_text(types.get(value.name))))
    taken = set(makers)
    for i, node in enumerate(graph.node):
        name = node.name or f"{node.op_type}_{i}"
        while name in taken:
            name = f"{name}_{i}"
        taken.add(name)
        for output in node.output:
            makers[output] = name
        if node.op_type == "Constant":
            continue
        read = [n for n in node.input if n]
        nodes.append(
            Node(
                name=name,
                op=f"{node.domain}.{node.op_type}" if node.domain else node.op_type,
                path=_path(node),
                type=_text(types.get(node.output[0])) if node.output else "",
                inputs=tuple(dict.fromkeys(makers[n] for n in read if n in makers and n not in constants)),
                weights=tuple(Weight(n, _text(types.get(n))) for n in read if n in constants),
                options=", ".join(f"{a.name}={_attribute(a)}" for a in sorted(node.attribute, key=lambda a: a.name)),
            )
        )
        shapes[name] = {"node": node, "in": [types.get(n) for n in read], "out": types.get(node.output[0])}
    known = {node.name for node in nodes}
    nodes = [_without_constants(node, known) for node in nodes]
    for value in graph.output:
        source = makers.get(value.name)
        inputs = (source,) if source in known else ()
        nodes.append(Node(f"output {value.name}", "output", type=_text(types.get(value.name)), inputs=inputs))
    return Step(title=title, stage="lowered", nodes=tuple(nodes), values=_values(nodes, shapes, set(constants)))


def _without_constants(node: Node, known: set[str]) -> Node:
    return replace(node, inputs=tuple(n for n in node.inputs if n in known))


def _path(node: onnx.NodeProto) -> tuple[str, ...]:
    """The user's module: as torch's exporter notes it, or from the node's name ("/blocks.3/attn/MatMul"). Exporters
    that repeat a level's parents in it ("/blocks/blocks.3") are read once."""
    for entry in node.metadata_props:
        if entry.key == "pkg.torch.onnx.name_scopes":
            try:
                scopes = [str(scope) for scope in ast.literal_eval(entry.value)[:-1] if scope]
            except (ValueError, SyntaxError):
                scopes = []
            return tuple(filter(None, scopes[-1].split("."))) if scopes else ()
    if not node.name.startswith("/"):
        return ()
    levels: list[str] = []
    for part in filter(None, node.name.split("/")[:-1]):
        parts = part.split(".")
        if levels[-len(parts) + 1 :] == parts[:-1] and len(parts) > 1:
            parts = parts[-1:]
        levels += parts
    return tuple(filter(None, levels))


def _types(proto: onnx.ModelProto) -> dict[str, tuple[str, tuple[int | str, ...] | None]]:
    """Tensor → (dtype, shape; None where it is not known)."""
    try:
        graph = onnx.shape_inference.infer_shapes(proto).graph
    except Exception:  # a graph that inference refuses is still worth seeing
        graph = proto.graph
    found: dict[str, tuple[str, tuple[int | str, ...] | None]] = {
        t.name: (_DTYPES.get(t.data_type, str(t.data_type)), tuple(t.dims)) for t in proto.graph.initializer
    }
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        dims = tuple(d.dim_param or d.dim_value for d in tensor.shape.dim) if tensor.HasField("shape") else None
        found.setdefault(value.name, (_DTYPES.get(tensor.elem_type, "?"), dims))
    return found


def _text(kind: tuple[str, tuple[int | str, ...] | None] | None) -> str:
    if kind is None:
        return "?"
    dtype, shape = kind
    return f"{dtype}[{'?' if shape is None else ', '.join(map(str, shape))}]"


def _attribute(attribute: onnx.AttributeProto) -> str:
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, (onnx.TensorProto, onnx.GraphProto)):
        return f"<{type(value).__name__.removesuffix('Proto').lower()}>"
    text = str(list(value) if not isinstance(value, (str, int, float)) else value)
    return text if len(text) < 40 * _SMALL else f"{text[: 40 * _SMALL]}…"


def _values(
    nodes: list[Node], shapes: Mapping[str, Mapping[str, Any]], constants: set[str]
) -> dict[str, dict[str, Value]]:
    """Where shapes are known, a free size (the batch) counted as one."""
    values: dict[str, dict[str, Value]] = {n: {} for n in ("flops", "bytes", "weights", "precision", "int8")}
    dequantized: dict[str, str] = {n.name: "int8" for n in nodes if n.op.endswith("DequantizeLinear")}
    for node in nodes:
        found = shapes.get(node.name)
        if found is None or found["out"] is None or found["out"][1] is None:
            continue
        out = _count(found["out"][1])
        weights = sum(_size(t) for t, n in zip(found["in"], _read(found["node"]), strict=True) if n in constants)
        read = sum(_size(t) for t, n in zip(found["in"], _read(found["node"]), strict=True) if n not in constants)
        values["bytes"][node.name] = read + _size(found["out"]) + weights
        values["weights"][node.name] = weights
        values["flops"][node.name] = out
        op = node.op.rpartition(".")[2]
        if op not in _PRODUCTS:
            continue
        if (depth := _depth(op, found)) is not None:
            values["flops"][node.name] = 2.0 * out * depth
        dtype = dequantized.get(node.inputs[0], "") if node.inputs else ""
        read_as = found["in"][0][0] if found["in"] and found["in"][0] else ""
        values["precision"][node.name] = dtype or _BITS.get(read_as, "fp32")
        values["int8"][node.name] = float(values["precision"][node.name] == "int8")
    return {name: found for name, found in values.items() if found}


def _read(node: onnx.NodeProto) -> list[str]:
    return [n for n in node.input if n]


def _depth(op: str, found: Mapping[str, Any]) -> int | None:
    """How many products are summed for one element."""
    operands = [t for t in found["in"] if t is not None and t[1]]
    if op.endswith(("Conv", "ConvInteger")):
        return math.prod(int(s) for s in operands[1][1][1:]) if len(operands) > 1 else None
    if not operands:
        return None
    shape = operands[0][1]
    transposed = any(a.name == "transA" and a.i for a in found["node"].attribute)
    size = shape[0] if transposed else shape[-1]
    return size if isinstance(size, int) else None


def _count(shape: tuple[int | str, ...]) -> float:
    return float(math.prod(s if isinstance(s, int) and s > 0 else 1 for s in shape))


def _size(kind: tuple[str, tuple[int | str, ...] | None] | None) -> float:
    if kind is None or kind[1] is None:
        return 0.0
    width = {"f64": 8, "i64": 8, "f32": 4, "i32": 4, "f16": 2, "bf16": 2}.get(kind[0], 1)
    return width * _count(kind[1])
