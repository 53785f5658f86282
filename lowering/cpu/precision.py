"""FP16 -> FP32 inside the graph. The inputs and outputs keep their types: a cast at each border."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def widen(proto: onnx.ModelProto) -> None:
    """Every FP16 tensor inside the graph becomes FP32; FP16 inputs and outputs are cast at the border."""
    graph = proto.graph
    _widen_tensors(graph)
    _cast_inputs(graph)
    _cast_outputs(graph)
    # Types between the borders: stated ones would now be wrong, and every engine infers them.
    del graph.value_info[:]


def _widen_tensors(graph: onnx.GraphProto) -> None:
    for tensor in graph.initializer:
        _widen(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                _widen(attribute.t)
            elif attribute.type == onnx.AttributeProto.GRAPH:
                _widen_tensors(attribute.g)
            elif attribute.name in ("to", "output_dtype", "dtype") and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT


def _widen(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT16:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))


def _is_half(value: onnx.ValueInfoProto) -> bool:
    return bool(value.type.tensor_type.elem_type == TensorProto.FLOAT16)


def _cast_inputs(graph: onnx.GraphProto) -> None:
    names = {value.name: f"{value.name}/fp32" for value in graph.input if _is_half(value)}
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = names.get(name, name)
    casts = [helper.make_node("Cast", [old], [new], name=new, to=TensorProto.FLOAT) for old, new in names.items()]
    for cast in reversed(casts):
        graph.node.insert(0, cast)


def _cast_outputs(graph: onnx.GraphProto) -> None:
    names = {value.name: f"{value.name}/fp32" for value in graph.output if _is_half(value)}
    for node in graph.node:
        for slots in (node.input, node.output):
            for i, name in enumerate(slots):
                slots[i] = names.get(name, name)
    for old, new in names.items():
        graph.node.append(helper.make_node("Cast", [new], [old], name=f"{new}/cast", to=TensorProto.FLOAT16))
