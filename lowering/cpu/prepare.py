"""The ONNX file as an engine wants it: functions inlined, FP32 throughout, INT8 in the spelling that is
fast and right.

Every step changes a copy in memory. The file on disk stays the one file for all engines.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vitc.errors import missing
from vitc.lowering.cpu.engine import Port
from vitc.lowering.cpu.machine import int8_saturates

if TYPE_CHECKING:
    import onnx

    from vitc.lowering.gate.tensors import Read

# Protobuf's limit, with room for what is not weights.
_PROTOBUF_LIMIT = 2**31 - 2**24


@dataclass(frozen=True)
class Prepared:
    """A model ready for an engine: its bytes, or, where it is too large for that, a file.

    The ports are those of the original: engines rename tensors, and forget the names of dynamic sizes.
    """

    model: Path | bytes
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


@contextmanager
def prepared(model: Path | bytes, engine: str) -> Iterator[Prepared]:
    """The model for `engine`; a file it needs is there as long as the context is open."""
    with prepared_proto(load(model), engine) as ready:
        yield ready


@contextmanager
def prepared_proto(proto: onnx.ModelProto, engine: str) -> Iterator[Prepared]:
    """As `prepared`, for a model in memory, which may be changed."""
    inputs, outputs = ports(proto)
    proto = prepare(proto, engine)
    if _weights(proto) < _PROTOBUF_LIMIT:
        yield Prepared(proto.SerializeToString(), inputs, outputs)
        return
    import onnx

    with tempfile.TemporaryDirectory(prefix="vitc-cpu-") as folder:
        path = Path(folder) / "model.onnx"
        onnx.save_model(proto, str(path), save_as_external_data=True, location="model.onnx.data")
        del proto
        yield Prepared(path, inputs, outputs)


def prepare(proto: onnx.ModelProto, engine: str) -> onnx.ModelProto:
    """What `engine` is given, step by step. `proto` may be changed."""
    import onnx.inliner

    from vitc.lowering.cpu.attention import use_multi_head_attention
    from vitc.lowering.cpu.precision import widen
    from vitc.lowering.cpu.quantization import fold_weights, shift_to_unsigned

    if engine == "onnxruntime":
        # Its fused attention takes 4-12 % less CPU time than the function's body.
        use_multi_head_attention(proto)
    # Every other attention becomes its standard-operator body.
    if proto.functions:
        proto = onnx.inliner.inline_local_functions(proto)
    # No CPU here computes in FP16: ONNX Runtime would cast around every operator.
    widen(proto)
    if engine == "openvino" and int8_saturates():
        # Without VNNI its INT8 product saturates and is slower than FP32: keep the quantized numbers, in
        # FP32.
        fold_weights(proto)
    # u8 x s8 is the processors' product; signed activations would be shifted at run time, each time.
    shift_to_unsigned(proto)
    return proto


def load(model: Path | bytes, read: Read | None = None) -> onnx.ModelProto:
    """The model through the gate, with its external data: what `read` gives for a location, or lies beside the path.

    Raises BuildError, MissingDependencyError.
    """
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise missing("onnx", "running a model on the CPU") from error
    from vitc.lowering.gate import admit_for_engine

    return admit_for_engine(model, read)


def _weights(proto: onnx.ModelProto) -> int:
    return sum(len(tensor.raw_data) for tensor in proto.graph.initializer)


def ports(proto: onnx.ModelProto) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """The graph's inputs and outputs."""
    initializers = {tensor.name for tensor in proto.graph.initializer}
    inputs = tuple(_port(value) for value in proto.graph.input if value.name not in initializers)
    return inputs, tuple(_port(value) for value in proto.graph.output)


def _port(value: onnx.ValueInfoProto) -> Port:
    import onnx

    tensor = value.type.tensor_type
    shape = tuple(size.dim_value if size.HasField("dim_value") else size.dim_param or "?" for size in tensor.shape.dim)
    return Port(value.name, str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)), shape)
