"""Which external files an ONNX model names, read from its protobuf without the onnx package.

A tensor's `external_data` location is a path an engine will open, so a bundle must know each one before an
engine sees the file. The device has no onnx package, and loading a whole model to look at some strings
would be wasteful: this walks the wire format, and skips what it does not look for.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from vitc.errors import BundleError

# Wire types of protobuf.
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# field number -> message, for the messages that can lead to a TensorProto (onnx.proto, IR version 10).
_CHILDREN: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 25: "Function"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
    "Entry": {},
}

# Nested deeper than any model: only a forged file is.
_MAX_DEPTH = 64

_Buffer = bytes | mmap.mmap


def external_locations(path: Path) -> set[str]:
    """The `location` of each external tensor in the ONNX file. BundleError where the file is not an ONNX
    model.
    """
    if path.stat().st_size == 0:
        raise BundleError(f"{path.name} is damaged: an ONNX model is not empty, this file has 0 bytes")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return set(_locations(data, 0, len(data), "Model", 0))
        except (IndexError, ValueError) as error:
            raise BundleError(f"{path.name} is damaged: not an ONNX model ({error})") from error


def _locations(data: _Buffer, start: int, end: int, message: str, depth: int) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        raise ValueError(f"messages nested deeper than {_MAX_DEPTH}")
    for number, first, last in _fields(data, start, end):
        child = _CHILDREN[message].get(number)
        if child == "Entry":
            entry = {n: data[a:b] for n, a, b in _fields(data, first, last)}
            if entry.get(1) == b"location":
                yield entry.get(2, b"").decode("utf-8")
        elif child is not None:
            yield from _locations(data, first, last, child, depth + 1)


def _fields(data: _Buffer, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(field number, first byte, byte after the last) of each length-delimited field in data[at:end]."""
    while at < end:
        key, at = _varint(data, at, end)
        number, wire = key >> 3, key & 7
        if wire == _BYTES:
            size, at = _varint(data, at, end)
            yield number, at, at + size
            at += size
        elif wire == _VARINT:
            _, at = _varint(data, at, end)
        elif wire in (_FIXED64, _FIXED32):
            at += 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"byte {at} has the unknown wire type {wire}")
    if at != end:
        raise ValueError(f"a field ends at byte {at}, its message at byte {end}")


def _varint(data: _Buffer, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= end or shift > 63:
            raise ValueError(f"a number runs out of its message at byte {at}")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
