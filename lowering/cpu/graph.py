"""Small questions about an ONNX graph, asked by more than one rewrite."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from vitc.lowering.gate.limits import MOVES
from vitc.lowering.gate.structure import is_known_type


class GraphIndex:
    """Who makes and who reads each tensor. Valid as long as the graph's edges do not change."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.initializers = {tensor.name: tensor for tensor in graph.initializer}
        self.outputs = {value.name for value in graph.output}
        self.producer: dict[str, onnx.NodeProto] = {}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in node.output:
                self.producer[name] = node
            for name in node.input:
                self.readers[name].append(node)

    def constant(self, name: str) -> npt.NDArray[np.generic] | None:
        """The value of an initializer, or of what Constant, Cast and Identity make of one; None otherwise."""
        casts: list[int] = []
        for _ in range(MOVES):
            if name in self.initializers:
                return _cast(numpy_helper.to_array(self.initializers[name]), casts)
            node = self.producer.get(name)
            attributes = {} if node is None else {attribute.name: attribute for attribute in node.attribute}
            if node is None or node.op_type not in ("Constant", "Cast", "Identity"):
                return None
            if node.op_type == "Constant":
                return _cast(_constant_value(attributes), casts)
            if node.op_type == "Cast":
                casts.append(attributes["to"].i)
            name = node.input[0]
        return None


def _cast(value: npt.NDArray[np.generic] | None, casts: list[int]) -> npt.NDArray[np.generic] | None:
    """The value after all casts, of which the last comes first; None where one is to no type of NumPy's."""
    for data_type in reversed(casts):
        if value is None or not is_known_type(data_type):
            return None
        value = value.astype(onnx.helper.tensor_dtype_to_np_dtype(data_type))
    return value


def _constant_value(attributes: dict[str, onnx.AttributeProto]) -> npt.NDArray[np.generic] | None:
    if "value" in attributes:
        return numpy_helper.to_array(attributes["value"].t)
    if "value_float" in attributes:
        return np.array(attributes["value_float"].f, np.float32)
    if "value_int" in attributes:
        return np.array(attributes["value_int"].i, np.int64)
    return None


def add_initializer(graph: onnx.GraphProto, name: str, value: npt.NDArray[np.generic]) -> str:
    """`name`, or the next free one, now an initializer with this value."""
    taken = {tensor.name for tensor in graph.initializer}
    unique = name
    while unique in taken:
        unique += "_"
    graph.initializer.append(numpy_helper.from_array(value, unique))
    return unique
