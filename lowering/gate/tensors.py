"""Initializers and constants: each holds as many bytes of its type as its shape says, in the file or beside it."""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

from vitc.lowering.gate import limits
from vitc.lowering.gate.structure import Refused, walk

#: The bytes of a file of weights, by its location.
Read = Callable[[str], "bytes | mmap.mmap"]

_BITS: dict[int, int] = {
    TensorProto.FLOAT: 32, TensorProto.UINT8: 8, TensorProto.INT8: 8, TensorProto.UINT16: 16, TensorProto.INT16: 16,
    TensorProto.INT32: 32, TensorProto.INT64: 64, TensorProto.BOOL: 8, TensorProto.FLOAT16: 16,
    TensorProto.DOUBLE: 64, TensorProto.UINT32: 32, TensorProto.UINT64: 64, TensorProto.BFLOAT16: 16,
    TensorProto.FLOAT8E4M3FN: 8, TensorProto.FLOAT8E4M3FNUZ: 8, TensorProto.FLOAT8E5M2: 8,
    TensorProto.FLOAT8E5M2FNUZ: 8, TensorProto.UINT4: 4, TensorProto.INT4: 4,
}  # fmt: skip
#: Where numbers lie that are not raw bytes; all other types: in int32_data.
_FIELDS: dict[int, str] = {
    TensorProto.FLOAT: "float_data", TensorProto.DOUBLE: "double_data", TensorProto.INT64: "int64_data",
    TensorProto.UINT32: "uint64_data", TensorProto.UINT64: "uint64_data",
}  # fmt: skip
_ALL_FIELDS = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")
_SIGNED = (TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT4)
#: Numbers that are widened to 32 bits in the file: raw bytes hold more of them.
_MOST_WIDENED = 2**22


def check_tensors(proto: onnx.ModelProto) -> None:
    """Raises Refused for a tensor that is not what it says. External ones are checked as they are read."""
    names = [tensor.name for tensor in proto.graph.initializer]
    if len(set(names)) < len(names) or "" in names:
        raise Refused("two of its initializers have the same name, or one has none")
    tensors = list(_all(proto))
    if len(tensors) > limits.TENSORS:
        raise Refused(f"it has {len(tensors)} constants; the most is {limits.TENSORS}")
    for tensor in tensors:
        size = stated_bytes(tensor)
        if tensor.data_location != TensorProto.EXTERNAL:
            _check_data(tensor, size)


def _all(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    graphs = [proto.graph]
    yield from proto.graph.initializer
    for nodes in (proto.graph.node, *(function.node for function in proto.functions)):
        for node, _ in walk(nodes):
            for attribute in node.attribute:
                if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
                    raise Refused(f"its node {node.name or node.op_type!r} holds a sparse tensor; store it whole")
                yield from attribute.tensors
                if attribute.HasField("t"):
                    yield attribute.t
                graphs += [attribute.g, *attribute.graphs]
    for graph in graphs[1:]:
        yield from graph.initializer
    if any(graph.sparse_initializer for graph in graphs):
        raise Refused("it has sparse initializers; store them whole")


def stated_bytes(tensor: onnx.TensorProto) -> int:
    """How many bytes a tensor of this type and shape has. Refused where there is no such tensor."""
    bits = _BITS.get(tensor.data_type)
    if bits is None:
        raise Refused(f"its tensor {tensor.name!r} has the element type {tensor.data_type}, which is none of numbers")
    if len(tensor.dims) > limits.RANK or any(size < 0 for size in tensor.dims) or tensor.HasField("segment"):
        raise Refused(
            f"its tensor {tensor.name!r} has the shape {list(tensor.dims)[: limits.RANK]}, or is a segment of one"
        )
    return -(-math.prod(int(size) for size in tensor.dims) * bits // 8)


def _check_data(tensor: onnx.TensorProto, size: int) -> None:
    used = [name for name in ("raw_data", *_ALL_FIELDS) if len(getattr(tensor, name))]
    count = math.prod(tensor.dims)
    if not used and count == 0:
        return
    if used == ["raw_data"]:
        if len(tensor.raw_data) != size:
            raise Refused(
                f"its tensor {tensor.name!r} of shape {list(tensor.dims)} has {len(tensor.raw_data)} bytes, not {size}"
            )
        return
    field = _FIELDS.get(tensor.data_type, "int32_data")
    if used != [field]:
        raise Refused(f"its tensor {tensor.name!r} has its data in {', '.join(used) or 'no field'}, not in {field}")
    values = getattr(tensor, field)
    bits = _BITS[tensor.data_type]
    wanted = size if bits < 8 else count
    if len(values) != wanted:
        raise Refused(
            f"its tensor {tensor.name!r} of shape {list(tensor.dims)} has {len(values)} numbers, not {wanted}"
        )
    if field == "int32_data":
        if len(values) > _MOST_WIDENED:
            raise Refused(f"its tensor {tensor.name!r} spells out {len(values)} numbers; store it as raw data")
        numbers = np.fromiter(values, np.int64, len(values))
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if tensor.data_type in _SIGNED else (0, 2**bits - 1)
        if bits < 8:
            low, high = 0, 255
        if len(numbers) and (numbers.min() < low or numbers.max() > high):
            raise Refused(f"its tensor {tensor.name!r} has numbers that its element type can't hold")


def take_external(tensors: Iterable[onnx.TensorProto], read: Read, largest: int | None) -> None:
    """Brings data that lies in other files into the tensors; where it is more than `largest`, it is only looked for."""
    files: dict[str, bytes | mmap.mmap] = {}
    for tensor in tensors:
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        given = {entry.key: entry.value for entry in tensor.external_data}
        size, location = stated_bytes(tensor), given.get("location", "")
        offset, length = _number(tensor, given.get("offset", "0")), _number(tensor, given.get("length", str(size)))
        if location not in files:
            files[location] = read(location)
        if length != size or offset + size > len(files[location]):
            raise Refused(
                f"its tensor {tensor.name!r} needs {size} bytes; {location!r} of {len(files[location])} bytes holds "
                f"{length} of it from {offset} on"
            )
        for name in ("external_data", "data_location", *_ALL_FIELDS):
            tensor.ClearField(name)
        if largest is None or size <= largest:
            tensor.raw_data = files[location][offset : offset + size]


def _number(tensor: onnx.TensorProto, text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise Refused(f"its tensor {tensor.name!r} lies at {text[:40]!r} of another file, which is no place")
    return int(text)


def beside(path: Path) -> Read:
    """Reads the files beside a model: plain ones, in its folder or below."""

    def read(location: str) -> mmap.mmap | bytes:
        parts = location.split("/")
        if not location or "\0" in location or "\\" in location or any(part in ("", ".", "..") for part in parts):
            raise Refused(f"it keeps weights in {location!r}; they lie beside the model or in a folder there")
        file = path.parent
        for part in parts:
            file = file / part
            if file.is_symlink():
                raise Refused(f"it keeps weights in {location!r}, which is or goes through a link")
        if not file.is_file():
            raise Refused(f"it keeps weights in {location!r}, and there is no such file beside it")
        with file.open("rb") as source:
            return mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) if file.stat().st_size else b""

    return read
