"""What a graph makes of its shapes: engines compute constants as they open a model, so sizes are looked at first."""

from __future__ import annotations

import math

import onnx

from vitc.lowering.gate import limits
from vitc.lowering.gate.structure import Refused, is_known_type, skeleton

#: Their outputs may be any size, whatever goes in.
_GROWING = frozenset(
    {
        "BlackmanWindow", "ConstantOfShape", "Expand", "EyeLike", "HammingWindow", "HannWindow", "MelWeightMatrix",
        "OneHot", "Pad", "RandomNormal", "RandomUniform", "Range", "Resize", "Tile", "Upsample",
    }
)  # fmt: skip


def check_sizes(proto: onnx.ModelProto) -> None:
    """Raises Refused where a tensor would be larger than any model's, or constants would be without bound."""
    try:
        inferred = onnx.shape_inference.infer_shapes(skeleton(proto), data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
        raise Refused(f"the shapes of its tensors contradict each other: {str(error).strip()[:1000]}") from error
    sizes = {value.name: _bytes(value) for value in (*inferred.graph.value_info, *inferred.graph.output)}
    constants = {tensor.name for tensor in proto.graph.initializer}
    folded = 0
    for node in proto.graph.node:
        constant = all(not name or name in constants for name in node.input)
        if constant:
            constants.update(node.output)
        for name in node.output:
            size = sizes.get(name)
            if size is None and constant and node.op_type in _GROWING:
                raise Refused(f"its constant {name!r}, made by {node.op_type}, may be of any size")
            if (size or 0) > limits.TENSOR_BYTES:
                raise Refused(f"its tensor {name!r} would have {size} bytes; the most is {limits.TENSOR_BYTES}")
            folded += (size or 0) if constant else 0
        if folded > limits.FOLDED_BYTES:
            raise Refused(f"its constants would have more than {limits.FOLDED_BYTES} bytes once they are computed")


def _bytes(value: onnx.ValueInfoProto) -> int | None:
    """The least size of a tensor; None where a dimension or the type is not known."""
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not tensor.HasField("shape") or not is_known_type(tensor.elem_type):
        return None
    if not all(size.HasField("dim_value") for size in tensor.shape.dim):
        return None
    itemsize: int = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).itemsize
    return math.prod(int(size.dim_value) for size in tensor.shape.dim) * itemsize
