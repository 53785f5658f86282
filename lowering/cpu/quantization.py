"""INT8 in the CPU engines' spelling. The numbers stay those of the symmetric quantization in the file."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from vitc.errors import InternalError
from vitc.lowering.cpu.graph import GraphIndex, add_initializer

# Operators that move elements and do not look at them.
_MOVEMENT = {
    "Concat",
    "Expand",
    "Flatten",
    "Gather",
    "Identity",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
}


def shift_to_unsigned(proto: onnx.ModelProto) -> int:
    """int8 activations with zero point 0 become uint8 with zero point 128: each stored number + 128, each
    real the same.

    A QuantizeLinear is changed when all that reads it, through movement, is a DequantizeLinear with one
    scale. Returns how many were.
    """
    index = GraphIndex(proto.graph)
    shifted = [
        (quantize, dequantizes)
        for quantize in proto.graph.node
        if quantize.op_type == "QuantizeLinear"
        and _per_tensor(quantize, index, np.int8)
        and (dequantizes := _dequantizes(quantize, index)) is not None
    ]
    if not shifted:
        return 0
    zero = add_initializer(proto.graph, "vitc/zero_point_128", np.array(128, np.uint8))
    for quantize, dequantizes in shifted:
        for node in (quantize, *dequantizes):
            del node.input[2:]
            node.input.append(zero)
    return len(shifted)


def _dequantizes(quantize: onnx.NodeProto, index: GraphIndex) -> list[onnx.NodeProto] | None:
    """The DequantizeLinears that read this one's output; None when anything else sees the integers."""
    found: dict[int, onnx.NodeProto] = {}
    todo = list(quantize.output)
    while todo:
        name = todo.pop()
        if name in index.outputs:
            return None
        for reader in index.readers[name]:
            if reader.op_type == "DequantizeLinear":
                if not _per_tensor(reader, index, np.int8, default=True):
                    return None
                found[id(reader)] = reader
            # Concat may join integers of another zero point: it needs all its inputs looked at, so it ends
            # here.
            elif reader.op_type in _MOVEMENT and reader.op_type != "Concat" and reader.input[0] == name:
                todo += reader.output
            else:
                return None
    return list(found.values())


def _per_tensor(node: onnx.NodeProto, index: GraphIndex, dtype: type, default: bool = False) -> bool:
    """Whether a Q or DQ node has one scale, and a zero point 0 of this dtype (`default`: or none stated)."""
    scale = index.constant(node.input[1])
    if scale is None or scale.size != 1:
        return False
    if len(node.input) < 3 or not node.input[2]:
        return default
    zero = index.constant(node.input[2])
    return zero is not None and zero.dtype == dtype and not zero.any()


def fold_weights(proto: onnx.ModelProto) -> int:
    """int8 weights are multiplied out into FP32: same numbers, an FP32 product. Returns how many were."""
    graph = proto.graph
    index = GraphIndex(graph)
    folded = {}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in index.initializers:
            folded[node.output[0]] = _dequantized(node, index)
    kept = [node for node in graph.node if not node.output or node.output[0] not in folded]
    del graph.node[:]
    graph.node.extend(kept)
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in folded.items())
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    kept_tensors = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept_tensors)
    return len(folded)


def _dequantized(node: onnx.NodeProto, index: GraphIndex) -> npt.NDArray[np.float32]:
    values = numpy_helper.to_array(index.initializers[node.input[0]]).astype(np.float32)
    scale = index.constant(node.input[1])
    if scale is None:
        raise InternalError(f"the weight {node.input[0]!r} has the scale {node.input[1]!r}, which is not constant")
    zero = index.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    offset = np.zeros_like(scale) if zero is None else zero
    if scale.ndim == 1:
        axis = next((helper.get_attribute_value(a) for a in node.attribute if a.name == "axis"), 1)
        shape = [1] * values.ndim
        shape[axis] = -1
        scale, offset = scale.reshape(shape), offset.reshape(shape)
    return (values - offset.astype(np.float32)) * scale.astype(np.float32)
