"""ONNX models that are wrong in one way or in several, made from a valid one with a seed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Rng = np.random.Generator
_NUMBERS = (0.0, -1.0, 1e-45, 1e38, float("inf"), float("nan"), -0.0, 3.0)
_INTEGERS = (0, 1, -1, 2, 3, 15, 16, 17, 64, 1000, 2**31 - 1, 2**31, -(2**31), 2**62)
_OPERATORS = (
    "Add",
    "Mul",
    "MatMul",
    "Identity",
    "Cast",
    "Relu",
    "Gelu",
    "QuantizeLinear",
    "DequantizeLinear",
    "Reshape",
)


def mutated(proto: onnx.ModelProto, rng: Rng) -> onnx.ModelProto:
    """A copy of the model with one to three changes."""
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    for _ in range(int(rng.integers(1, 4))):
        with suppress(ValueError, TypeError, IndexError):  # an earlier change has left nothing to change here
            _CHANGES[int(rng.integers(len(_CHANGES)))](changed, rng)
    return changed


def _one(items: object, rng: Rng) -> object:
    return items[int(rng.integers(len(items)))] if len(items) else None  # type: ignore[index, arg-type]


def _resize_tensor(proto: onnx.ModelProto, rng: Rng) -> None:
    tensor = _one(proto.graph.initializer, rng)
    value = numpy_helper.to_array(tensor)
    if value.ndim == 0:
        value = np.repeat(value[None], int(rng.integers(0, 40)))
    else:
        axis = int(rng.integers(value.ndim))
        if rng.random() < 0.5:
            value = np.repeat(value, int(rng.choice([0, 2, 3, 16])), axis)
        else:
            value = np.take(value, range(int(rng.integers(value.shape[axis] + 1))), axis)
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), tensor.name))


def _change_values(proto: onnx.ModelProto, rng: Rng) -> None:
    tensor = _one(proto.graph.initializer, rng)
    value = numpy_helper.to_array(tensor).copy()
    if value.size:
        with np.errstate(all="ignore"):
            value.reshape(-1)[int(rng.integers(value.size))] = np.float64(rng.choice(_NUMBERS)).astype(value.dtype)
    tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))


def _change_dtype(proto: onnx.ModelProto, rng: Rng) -> None:
    tensor = _one(proto.graph.initializer, rng)
    if rng.random() < 0.5:
        tensor.data_type = int(rng.integers(0, 25))  # the bytes stay
    else:
        dtype = rng.choice(["float32", "float16", "int8", "uint8", "int32", "int64", "float64"])
        with np.errstate(all="ignore"):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(dtype), tensor.name))


def _change_dims(proto: onnx.ModelProto, rng: Rng) -> None:
    tensor = _one(proto.graph.initializer, rng)
    if tensor.dims and rng.random() < 0.8:
        tensor.dims[int(rng.integers(len(tensor.dims)))] = int(rng.choice(_INTEGERS))
    else:
        tensor.dims.append(int(rng.choice(_INTEGERS)))


def _cut_bytes(proto: onnx.ModelProto, rng: Rng) -> None:
    tensor = _one(proto.graph.initializer, rng)
    tensor.raw_data = tensor.raw_data[: int(rng.integers(len(tensor.raw_data) + 1))]


def _change_attribute(proto: onnx.ModelProto, rng: Rng) -> None:
    with_attributes = [node for node in proto.graph.node if node.attribute]
    node = _one(with_attributes, rng)
    if node is None:
        return
    attribute = _one(node.attribute, rng)
    kind = attribute.type
    if rng.random() < 0.15:
        attribute.type = int(rng.integers(0, 15))
    elif rng.random() < 0.15:
        node.attribute.remove(attribute)
    elif kind == onnx.AttributeProto.INT:
        attribute.i = int(rng.choice(_INTEGERS))
    elif kind == onnx.AttributeProto.FLOAT:
        attribute.f = float(rng.choice(_NUMBERS))
    elif kind == onnx.AttributeProto.STRING:
        attribute.s = bytes(rng.choice([b"", b"tanh", b"none", b"\xff\xfe", b"packed", b"bnhd", b"x" * 5000]))
    elif kind == onnx.AttributeProto.FLOATS:
        attribute.floats.extend([float(rng.choice(_NUMBERS))] * int(rng.integers(1, 5)))
    else:
        attribute.ints.append(int(rng.choice(_INTEGERS)))


def _names(proto: onnx.ModelProto) -> list[str]:
    graph = proto.graph
    made = [name for node in graph.node for name in node.output]
    return [*made, *(t.name for t in graph.initializer), *(v.name for v in graph.input), "", "nowhere"]


def _rewire(proto: onnx.ModelProto, rng: Rng) -> None:
    node = _one(proto.graph.node, rng)
    if node is not None and node.input:
        node.input[int(rng.integers(len(node.input)))] = str(_one(_names(proto), rng))


def _change_outputs(proto: onnx.ModelProto, rng: Rng) -> None:
    node = _one(proto.graph.node, rng)
    if node is None:
        return
    if node.output and rng.random() < 0.7:
        node.output[0] = str(_one(_names(proto), rng))
    else:
        node.output.append(str(_one(_names(proto), rng)))


def _drop_inputs(proto: onnx.ModelProto, rng: Rng) -> None:
    node = _one(proto.graph.node, rng)
    if node is not None:
        del node.input[int(rng.integers(len(node.input) + 1)) :]


def _drop_node(proto: onnx.ModelProto, rng: Rng) -> None:
    if proto.graph.node:
        del proto.graph.node[int(rng.integers(len(proto.graph.node)))]


def _repeat_node(proto: onnx.ModelProto, rng: Rng) -> None:
    node = _one(proto.graph.node, rng)
    if node is not None:
        proto.graph.node.add().CopyFrom(node)


def _swap_nodes(proto: onnx.ModelProto, rng: Rng) -> None:
    nodes = list(proto.graph.node)
    if len(nodes) > 1:
        i, j = rng.integers(len(nodes), size=2)
        nodes[i], nodes[j] = nodes[j], nodes[i]
        kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del proto.graph.node[:]
        proto.graph.node.extend(kept)


def _change_operator(proto: onnx.ModelProto, rng: Rng) -> None:
    node = _one(proto.graph.node, rng)
    if node is not None:
        node.op_type = str(rng.choice(_OPERATORS))


def _change_ports(proto: onnx.ModelProto, rng: Rng) -> None:
    value = _one([*proto.graph.input, *proto.graph.output], rng)
    if value is None:
        return
    tensor = value.type.tensor_type
    choice = rng.random()
    if choice < 0.3:
        tensor.elem_type = int(rng.integers(0, 25))
    elif choice < 0.7 and tensor.shape.dim:
        tensor.shape.dim[int(rng.integers(len(tensor.shape.dim)))].dim_value = int(rng.choice(_INTEGERS))
    elif choice < 0.85:
        value.name = str(_one(_names(proto), rng))
    else:
        value.ClearField("type")


def _change_head(proto: onnx.ModelProto, rng: Rng) -> None:
    if rng.random() < 0.5:
        proto.ir_version = int(rng.choice(_INTEGERS[:13]))
    elif proto.opset_import:
        proto.opset_import[0].version = int(rng.choice(_INTEGERS[:13]))


def _ring(proto: onnx.ModelProto, rng: Rng) -> None:
    kind = str(rng.choice(["Identity", "Cast", "Transpose"]))
    given = {"to": TensorProto.FLOAT} if kind == "Cast" else {}
    proto.graph.node.extend(
        helper.make_node(kind, [a], [b], **given) for a, b in (("ring1", "ring0"), ("ring0", "ring1"))
    )
    _one(proto.graph.node[:-2], rng).input[:1] = ["ring0"]


def _external(proto: onnx.ModelProto, rng: Rng) -> None:
    tensor = _one(proto.graph.initializer, rng)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {
        "location": str(rng.choice(["", "build.sh", "../x", "/etc/passwd", "manifest.json"])),
        "offset": str(rng.choice(["0", "-1", "many", "9" * 30])),
        "length": str(rng.choice(["4", "-4", "many", "9" * 30])),
    }.items():
        tensor.external_data.add(key=key, value=value)


def _rename(proto: onnx.ModelProto, rng: Rng) -> None:
    node = _one(proto.graph.node, rng)
    if node is not None:
        node.name = str(rng.choice(["", "\x1b[2J", "a" * 100_000, "blocks/0/attn", "‮"]))
        entry = node.metadata_props.add()
        entry.key, entry.value = "pkg.torch.onnx.name_scopes", str(rng.choice(["][", "3", "['', 'a']", "[" * 5000]))


_CHANGES: tuple[Callable[[onnx.ModelProto, Rng], None], ...] = (
    _resize_tensor, _resize_tensor, _resize_tensor, _change_values, _change_values, _change_dtype, _change_dims,
    _cut_bytes, _change_attribute, _change_attribute, _change_attribute, _rewire, _rewire, _rewire, _change_outputs,
    _drop_inputs, _drop_node, _repeat_node, _swap_nodes, _change_operator, _change_ports, _change_head, _ring,
    _external, _rename,
)  # fmt: skip
