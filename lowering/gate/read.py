"""A path, bytes or a ModelProto becomes an admitted ModelProto."""

from __future__ import annotations

from pathlib import Path

import onnx

from vitc.errors import BuildError, VitcError
from vitc.files.plain import read_plain
from vitc.lowering.gate import limits
from vitc.lowering.gate.sizes import check_sizes
from vitc.lowering.gate.structure import Refused, check_counts, check_operators, check_rules
from vitc.lowering.gate.tensors import Read, beside, check_tensors, take_external


def admit(
    model: Path | bytes | onnx.ModelProto, error: type[VitcError], read: Read | None = None, largest: int | None = None
) -> onnx.ModelProto:
    """The model, checked; a ModelProto is taken as it is, and its external data brought into it.

    read: gives the bytes of a file of weights by its location; None: what lies beside the model's path.
    largest: external data of more bytes than that is only looked for; None: all of it is read.
    Raises `error` with what is wrong.
    """
    source = (
        model.name if isinstance(model, Path) else f"{len(model)} bytes" if isinstance(model, bytes) else "the model"
    )
    if read is None:
        read = beside(model) if isinstance(model, Path) else _nowhere
    try:
        proto = model if isinstance(model, onnx.ModelProto) else _parsed(_bytes(model))
        check_counts(proto)
        check_tensors(proto)
        take_external(proto.graph.initializer, read, largest)
        check_rules(proto)
    except (Refused, OSError) as refused:
        raise error(f"{source}: not an ONNX model that vitc takes: {refused}") from refused
    return proto


def admit_for_engine(model: Path | bytes | onnx.ModelProto, read: Read | None = None) -> onnx.ModelProto:
    """As `admit`, with what an engine must be spared as well: bodies, and sizes without bound.

    Raises BuildError.
    """
    proto = admit(model, BuildError, read)
    try:
        check_operators(proto)
        check_sizes(proto)
    except Refused as refused:
        raise BuildError(f"not an ONNX model that vitc runs: {refused}") from refused
    return proto


def _bytes(model: Path | bytes) -> bytes:
    if isinstance(model, bytes):
        return model
    return read_plain(model, limits.FILE_BYTES)


def _parsed(data: bytes) -> onnx.ModelProto:
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        return onnx.load_model_from_string(data)
    except (DecodeError, ValueError, RuntimeError) as error:
        raise Refused(f"it can't be parsed ({error})") from error


def _nowhere(location: str) -> bytes:
    raise Refused(f"it keeps weights in {location!r}, and was not given with the files beside it: give its path")
