"""The TensorRT plugin `vitc::VitAttention` version 1, as a Python class.

There are two distributions of TensorRT (`tensorrt`, `tensorrt_rtx`) with the same interfaces and unrelated
base classes, so the class is made for the module it is given: `register(trt)`. The plugin says what it takes
and gives; the arithmetic is a `Launch`, which loads the cubin and starts it on TensorRT's stream. Building an
engine ahead of time calls neither, so it needs no GPU, no driver and no nvcc.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from vitc.errors import InputError, LoweringError
from vitc.kernels.fields import AttentionFields, FieldSpec, FieldValue, attention_spec
from vitc.kernels.launch import shared_launch

NUMPY_TYPES = {"string": np.int8, "int": np.int32, "float": np.float32, "floats": np.float32}


class Launch(Protocol):
    """Starts the attention kernel on a stream and returns at once; `prepare` loads what a call needs.

    `inputs` and `outputs` are device addresses, `input_shapes` the shapes of the former (in the order of
    `fields.input_names`), `dtypes` the dtypes of inputs then output: "int8", "float16" or "float32".
    Raises where the kernel can't be started.
    """

    def __call__(
        self,
        fields: AttentionFields,
        input_shapes: Sequence[tuple[int, ...]],
        dtypes: Sequence[str],
        inputs: Sequence[int],
        outputs: Sequence[int],
        stream: int,
    ) -> None: ...

    def prepare(self, fields: AttentionFields) -> object: ...


class DimArithmetic(Protocol):
    """What an output shape needs to be computed; TensorRT's IExprBuilder fits."""

    def constant(self, value: int) -> Any: ...


def output_shape(fields: AttentionFields, inputs: Sequence[Sequence[Any]], arithmetic: DimArithmetic) -> list[Any]:
    """[B, N, H*D] from the shapes of the inputs, symbolic or not. H*D comes from the fields: a constant."""
    query = inputs[0]
    rank = 4 if fields.layout == "bhnd" else 3
    if len(query) != rank:
        raise LoweringError(
            f"the first input of vitc::VitAttention has {len(query)} dimensions; layout {fields.layout!r} takes {rank}"
        )
    tokens = query[2] if fields.layout == "bhnd" else query[1]
    return [query[0], tokens, arithmetic.constant(fields.num_heads * fields.head_dim)]


def output_dtype(fields: AttentionFields, input_dtype: str) -> str:
    """INT8 where out_scale > 0; else that of floating-point inputs, and FP16 where these are INT8."""
    if fields.int8_out:
        return "int8"
    return "float16" if fields.int8_in else input_dtype


def dtype_allowed(fields: AttentionFields, position: int, dtypes: Sequence[str]) -> bool:
    """Whether the tensor at `position` (inputs, then the output) may have the dtype it has.

    Looks only at positions up to `position`: what lies beyond is not decided yet when TensorRT asks. q, k and
    v are INT8 where q_scale > 0, else FP16 or FP32 and all alike; the output is as `output_dtype` says; the
    bias is FP16 or FP32.
    """
    dtype = dtypes[position]
    name = (*fields.input_names, "out")[position]
    if name == "out":
        return dtype == output_dtype(fields, dtypes[0])
    if name == "bias":
        return dtype in ("float16", "float32")
    if fields.int8_in:
        return dtype == "int8"
    return dtype in ("float16", "float32") and dtype == dtypes[0]


def check_inputs(fields: AttentionFields, count: int) -> None:
    """Raises `LoweringError` where a node's number of inputs is not what its fields say."""
    if count != len(fields.input_names):
        raise LoweringError(
            f"vitc::VitAttention has {count} inputs; layout {fields.layout!r} with has_bias="
            f"{fields.has_bias} takes {len(fields.input_names)}: {', '.join(fields.input_names)}"
        )


def register(trt: ModuleType, *, launch: Launch | None = None) -> None:
    """Puts the plugin's creator into `trt`'s registry, where the ONNX parser and the runtime find it.

    launch: what enqueue calls; None: the process's own, which runs cubins.

    Does nothing where `vitc::VitAttention` is registered already: the compiled plugin, loaded as a library,
    comes before this class, and the registry takes no second creator of one name.
    """
    if find_creator(trt) is not None:
        return
    registry, namespace = trt.get_plugin_registry(), attention_spec().plugin_namespace
    if not registry.register_creator(make_creator(trt, launch or shared_launch()), namespace):
        raise LoweringError(f"{trt.__name__} {trt.__version__} did not register vitc::VitAttention")


def find_creator(trt: ModuleType) -> Any | None:
    """The creator in `trt`'s registry (this module's, or the compiled plugin's), or None."""
    spec = attention_spec()
    wanted = (spec.name, spec.plugin_version, spec.plugin_namespace)
    for creator in trt.get_plugin_registry().all_creators:
        if (creator.name, creator.plugin_version, creator.plugin_namespace) == wanted:
            return creator
    return None


def make_creator(trt: Any, launch: Launch) -> Any:
    """A new creator for the distribution `trt`.

    TensorRT prints what its `create_plugin` raises and says only that it failed; `refusal` keeps the reason.
    """
    spec = attention_spec()
    names_of_types = {trt.int8: "int8", trt.float16: "float16", trt.float32: "float32"}
    types_of_names = {name: dtype for dtype, name in names_of_types.items()}
    bases = (trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime)

    def name_of(dtype: Any) -> str:
        return names_of_types.get(dtype, str(dtype))

    # TensorRT passes by position, so an argument that is not read may be named with an underscore.
    class VitAttention(*bases):  # type: ignore[misc]
        def __init__(self, fields: AttentionFields) -> None:
            for base in bases:
                base.__init__(self)
            self.fields = fields
            self.plugin_name = spec.name
            self.plugin_namespace = spec.plugin_namespace
            self.plugin_version = spec.plugin_version
            self.num_outputs = 1
            self.stored = StoredFields.of(trt, fields)

        def get_capability_interface(self, _kind: Any) -> VitAttention:
            return self

        def clone(self) -> VitAttention:
            return VitAttention(self.fields)

        def get_fields_to_serialize(self) -> Any:
            return self.stored.collection

        def get_output_data_types(self, input_types: Sequence[Any]) -> list[Any]:
            check_inputs(self.fields, len(input_types))
            return [types_of_names[output_dtype(self.fields, name_of(input_types[0]))]]

        def get_output_shapes(self, inputs: Any, _shape_inputs: Any, expr_builder: Any) -> list[Any]:
            return [trt.DimsExprs(output_shape(self.fields, inputs, expr_builder))]

        def supports_format_combination(self, pos: int, in_out: Sequence[Any], num_inputs: int) -> bool:
            check_inputs(self.fields, num_inputs)
            linear = in_out[pos].desc.format == trt.TensorFormat.LINEAR
            decided = [name_of(tensor.desc.type) for tensor in in_out[: pos + 1]]
            return linear and dtype_allowed(self.fields, pos, decided)

        def configure_plugin(self, inp: Sequence[Any], _out: Sequence[Any]) -> None:
            check_inputs(self.fields, len(inp))

        def get_workspace_size(self, _inp: Any, _out: Any) -> int:
            return 0  # the online softmax holds its tiles in registers and shared memory

        def get_valid_tactics(self) -> list[int]:
            return []  # one kernel, chosen by the fields: tiling was decided before the engine

        def set_tactic(self, tactic: int) -> None:
            if tactic != 0:
                raise LoweringError(f"vitc::VitAttention has only tactic 0; TensorRT asked for {tactic}")

        def on_shape_change(self, inp: Sequence[Any], _out: Sequence[Any]) -> None:
            check_inputs(self.fields, len(inp))
            launch.prepare(self.fields)  # so that enqueue neither loads nor allocates

        def attach_to_context(self, _resource_context: Any) -> VitAttention:
            return self.clone()

        def enqueue(
            self,
            input_desc: Sequence[Any],
            output_desc: Sequence[Any],
            inputs: Sequence[int],
            outputs: Sequence[int],
            _workspace: int,
            stream: int,
        ) -> None:
            launch(
                self.fields,
                [tuple(tensor.dims) for tensor in input_desc],
                [name_of(tensor.type) for tensor in (*input_desc, *output_desc)],
                inputs,
                outputs,
                stream,
            )

    class VitAttentionCreator(trt.IPluginCreatorV3One):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IPluginCreatorV3One.__init__(self)
            self.name = spec.name
            self.plugin_namespace = spec.plugin_namespace
            self.plugin_version = spec.plugin_version
            self.refusal: InputError | None = None
            self.declared = StoredFields.declaration(trt)
            self.field_names = self.declared.collection

        def create_plugin(self, _name: str, field_collection: Any, _phase: Any) -> VitAttention:
            try:
                return VitAttention(read_collection(field_collection))
            except InputError as error:
                self.refusal = error
                raise

    return VitAttentionCreator()


@dataclass(frozen=True)
class StoredFields:
    """A PluginFieldCollection and the arrays it points into: the bindings keep no reference to them."""

    collection: Any
    arrays: tuple[np.ndarray[Any, Any], ...]

    @classmethod
    def of(cls, trt: Any, fields: AttentionFields) -> StoredFields:
        """The values as TensorRT stores them in an engine, in the description's order."""
        attributes = fields.to_attributes()
        return cls._hold(trt, [_pack(spec, attributes[spec.name]) for spec in attention_spec().fields])

    @classmethod
    def declaration(cls, trt: Any) -> StoredFields:
        """Names and types without values: what the ONNX parser reads off a node."""
        return cls._hold(trt, [np.array([], NUMPY_TYPES[spec.type]) for spec in attention_spec().fields])

    @classmethod
    def _hold(cls, trt: Any, arrays: Sequence[np.ndarray[Any, Any]]) -> StoredFields:
        kinds = trt.PluginFieldType
        kind_of = {"string": kinds.CHAR, "int": kinds.INT32, "float": kinds.FLOAT32, "floats": kinds.FLOAT32}
        entries = [
            trt.PluginField(spec.name, array, kind_of[spec.type])
            for spec, array in zip(attention_spec().fields, arrays, strict=True)
        ]
        return cls(trt.PluginFieldCollection(entries), tuple(arrays))


def _pack(spec: FieldSpec, value: FieldValue) -> np.ndarray[Any, Any]:
    if isinstance(value, str):
        return np.frombuffer(value.encode(), dtype=np.int8)
    return np.array(value if spec.type == "floats" else [value], dtype=NUMPY_TYPES[spec.type])


def read_collection(entries: Any) -> AttentionFields:
    """The fields in a PluginFieldCollection: an ONNX node's attributes, or what an engine stored."""
    spec = attention_spec()
    attributes: dict[str, FieldValue] = {}
    for entry in entries:
        if entry.name not in ("plugin_namespace", "plugin_version"):
            attributes[entry.name] = _unpack(spec.field(entry.name), np.asarray(entry.data))
    return AttentionFields.from_attributes(attributes)


def _unpack(spec: FieldSpec, data: np.ndarray[Any, Any]) -> FieldValue:
    if spec.type == "string":
        return data.astype(np.int8).tobytes().rstrip(b"\0").decode()
    if spec.type == "floats":
        return tuple(float(number) for number in data.ravel())
    if data.size != 1:
        raise InputError(f"field {spec.name!r} of vitc::VitAttention holds {data.size} values, not one")
    return int(data.item()) if spec.type == "int" else float(data.item())
