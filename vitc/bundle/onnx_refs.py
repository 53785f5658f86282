"""Which external files an ONNX model names, read from its protobuf without the onnx package.

A tensor's `external_data` location is a path an engine will open, so a bundle must know each one before an
engine sees the file. The device has no onnx package, and loading a whole model to look at some strings
would be wasteful: this walks the wire format, and skips what it does not look for.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

from vitc.bundle import limits
from vitc.errors import BundleError
from vitc.files.plain import open_plain

# Wire types of protobuf.
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# field number -> message, for the messages that can lead to a TensorProto (onnx.proto, IR version 10).
_CHILDREN: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
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

# A location is a path, its key a word: of anything longer only the length counts.
_MAX_TEXT = 4 * limits.PATH

_Buffer = bytes | mmap.mmap


def external_locations(path: Path) -> set[str]:
    """The `location` of each external tensor in the ONNX file. BundleError where the file is not an ONNX
    model.
    """
    with open_plain(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            raise BundleError(f"{path.name} is damaged: an ONNX model is not empty, this file has 0 bytes")
        if size > limits.MODEL_BYTES:
            raise BundleError(f"{path.name} has {size} bytes; an ONNX model has at most {limits.MODEL_BYTES}")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return set(_Walk(data).locations(0, len(data), "Model", 0))
            except (IndexError, ValueError) as error:
                raise BundleError(f"{path.name} is damaged: not an ONNX model ({error})") from error


class _Walk:
    """Over the messages that can lead to a tensor, of so many fields at most."""

    def __init__(self, data: _Buffer) -> None:
        self.data = data
        self.left = limits.MODEL_FIELDS

    def locations(self, start: int, end: int, message: str, depth: int) -> Iterator[str]:
        if depth > _MAX_DEPTH:
            raise ValueError(f"messages nested deeper than {_MAX_DEPTH}")
        for number, first, last in self._fields(start, end):
            child = _CHILDREN[message].get(number)
            if child == "Entry":
                entry = {n: (a, b) for n, a, b in self._fields(first, last)}
                if self._text(*entry.get(1, (0, 0))) == b"location":
                    yield self._text(*entry.get(2, (0, 0))).decode("utf-8")
            elif child is not None:
                yield from self.locations(first, last, child, depth + 1)

    def _text(self, start: int, end: int) -> bytes:
        if end - start > _MAX_TEXT:
            raise ValueError(f"a tensor's external data has an entry of {end - start} bytes")
        return self.data[start:end]

    def _fields(self, at: int, end: int) -> Iterator[tuple[int, int, int]]:
        """(field number, first byte, byte after the last) of each length-delimited field in data[at:end]."""
        data = self.data
        while at < end:
            self.left -= 1
            if self.left < 0:
                raise ValueError(f"more than {limits.MODEL_FIELDS} fields")
            key, at = _varint(data, at, end)
            number, wire = key >> 3, key & 7
            if wire == _BYTES:
                size, at = _varint(data, at, end)
                if size > end - at:
                    raise ValueError(f"a field of {size} bytes runs out of its message at byte {at}")
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
