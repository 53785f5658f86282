"""The attention operator's description, read once from `vit_attention.toml`.

`attention_spec()` is the file as records; `AttentionFields` is one node's values, checked against it. The
ONNX emitter, the TensorRT plugin and the generator of the C++ header all come here, so none can disagree on a
name, a type, an order or a limit.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, TypeAlias

from vitc.errors import InputError, InternalError, unknown

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FieldValue: TypeAlias = "str | int | float | tuple[float, ...]"
PYTHON_TYPES: Mapping[str, type] = {"string": str, "int": int, "float": float, "floats": tuple}
NO_HEAD_SCALES = (1.0,)
MAX_SCALE_HEADS = 64
"""Heads that may have scales of their own: `kMaxScaleHeads` of cuda/params.h. Their factors travel in the launch."""
INT32_MAX = 2**31 - 1
"""The plugin's integers are INT32: TensorRT's ONNX parser hands an attribute over as such."""


@dataclass(frozen=True)
class FieldSpec:
    """One `[[fields]]` entry: its name, type and the values it may take."""

    name: str
    type: str
    doc: str
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    default: FieldValue | None = None

    def check(self, value: object) -> FieldValue:
        """`value` in the field's own type. Raises `InputError` with the value and what is allowed."""
        where = f"field {self.name!r} of vitc::VitAttention"
        if self.type == "string":
            return self._check_string(where, value)
        if self.type == "floats":
            return self._check_floats(where, value)
        wanted = "a finite float" if self.type == "float" else "an int"
        numbers = (int, float) if self.type == "float" else (int,)
        if isinstance(value, bool) or not isinstance(value, numbers) or not math.isfinite(value):
            raise InputError(f"{where} is {value!r}, and must be {wanted} ({self.doc})")
        if self.minimum is not None and value < self.minimum:
            raise InputError(f"{where} is {value!r}, and must be at least {self.minimum} ({self.doc})")
        highest = self.maximum if self.maximum is not None or self.type == "float" else INT32_MAX
        if highest is not None and value > highest:
            raise InputError(f"{where} is {value!r}, and must be at most {highest} ({self.doc})")
        return float(value) if self.type == "float" else value

    def _check_floats(self, where: str, value: object) -> tuple[float, ...]:
        if not isinstance(value, Sequence) or isinstance(value, str) or not value:
            raise InputError(f"{where} is {value!r}, and must be a list of floats ({self.doc})")
        one = replace(self, type="float")
        return tuple(one.check(number) for number in value)  # type: ignore[misc]

    def _check_string(self, where: str, value: object) -> str:
        if not isinstance(value, str):
            raise InputError(f"{where} is {value!r}, and must be a string, one of: {', '.join(self.choices)}")
        if value not in self.choices:
            raise InputError(unknown(f"{self.name} of vitc::VitAttention", value, self.choices))
        return value


@dataclass(frozen=True)
class AttentionSpec:
    """The whole of `vit_attention.toml`."""

    name: str
    domain: str
    plugin_namespace: str
    plugin_version: str
    layouts: Mapping[str, tuple[str, ...]]
    """The names of the inputs of each layout, the bias not among them."""
    fields: tuple[FieldSpec, ...]
    """In the order of the plugin's field collection and of the serialized engine."""

    def field(self, name: str) -> FieldSpec:
        """The field called `name`. Raises `InputError` naming the known ones."""
        for spec in self.fields:
            if spec.name == name:
                return spec
        raise InputError(unknown("field of vitc::VitAttention", name, [spec.name for spec in self.fields]))


def read_spec(text: str) -> AttentionSpec:
    """The description in `text` (TOML). Raises `InternalError` where the file contradicts itself."""
    data = tomllib.loads(text)
    fields = tuple(_read_field(entry) for entry in data["fields"])
    names = [spec.name for spec in fields]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise InternalError(f"vit_attention.toml declares these fields twice: {', '.join(doubled)}")
    return AttentionSpec(
        name=data["name"],
        domain=data["domain"],
        plugin_namespace=data["plugin_namespace"],
        plugin_version=data["plugin_version"],
        layouts={name: tuple(inputs) for name, inputs in data["layouts"].items()},
        fields=fields,
    )


def _read_field(entry: Mapping[str, Any]) -> FieldSpec:
    if entry["type"] not in PYTHON_TYPES:
        kind = f"type of field {entry['name']!r} in vit_attention.toml"
        raise InternalError(unknown(kind, entry["type"], PYTHON_TYPES))
    return FieldSpec(**{**entry, "choices": tuple(entry.get("choices", ()))})


@lru_cache(maxsize=1)
def attention_spec() -> AttentionSpec:
    """The description installed with this package."""
    return read_spec(spec_path().read_text(encoding="utf-8"))


def spec_path() -> Path:
    """Where `vit_attention.toml` lies; the bundle and the build of the C++ plugin copy it from here."""
    return Path(str(resources.files("vitc.kernels") / "vit_attention.toml"))


@dataclass(frozen=True)
class AttentionFields:
    """One VitAttention node's fields. Making one checks them all; raises `InputError`.

    Scales are `real = integer * scale`; 0 means floating point. See `vit_attention.toml` for each field.
    """

    layout: str
    num_heads: int
    head_dim: int
    scale: float
    has_bias: int
    tile_q: int
    tile_k: int
    pv: str
    q_scale: float
    k_scale: float
    v_scale: float
    out_scale: float
    head_scales: tuple[float, ...] = NO_HEAD_SCALES
    causal: int = 0

    def __post_init__(self) -> None:
        for spec in attention_spec().fields:
            object.__setattr__(self, spec.name, spec.check(getattr(self, spec.name)))
        scales = (self.q_scale, self.k_scale, self.v_scale)
        if any(scales) and not all(scales):
            raise InputError(
                f"q_scale, k_scale and v_scale of vitc::VitAttention are {scales}: either all are 0 "
                "(floating-point inputs) or all are > 0 (INT8 inputs)"
            )
        if self.by_head:
            self._check_head_scales()

    def _check_head_scales(self) -> None:
        if not self.int8_in or len(self.head_scales) != 3 * self.num_heads or not all(self.head_scales):
            raise InputError(
                f"head_scales of vitc::VitAttention has {len(self.head_scales)} factors for {self.num_heads} heads; it "
                f"must be [1.0], or 3*{self.num_heads} factors > 0 of the scales of INT8 inputs"
            )
        if self.num_heads > MAX_SCALE_HEADS:
            raise InputError(
                f"vitc::VitAttention has {self.num_heads} heads, and at most {MAX_SCALE_HEADS} may have scales of their"
                " own: write head_scales=[1.0], with one scale for all heads"
            )

    @property
    def int8_in(self) -> bool:
        """Whether q, k and v are INT8."""
        return self.q_scale > 0

    @property
    def by_head(self) -> bool:
        """Whether each head has scales of its own."""
        return self.head_scales != NO_HEAD_SCALES

    @property
    def int8_out(self) -> bool:
        """Whether the output is INT8."""
        return self.out_scale > 0

    @property
    def input_names(self) -> tuple[str, ...]:
        """The node's inputs in order, the bias last where there is one."""
        names = attention_spec().layouts[self.layout]
        return (*names, "bias") if self.has_bias else names

    def to_attributes(self) -> dict[str, FieldValue]:
        """Every field in the description's order, plugin_namespace and plugin_version not among them."""
        return {spec.name: getattr(self, spec.name) for spec in attention_spec().fields}

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, object]) -> AttentionFields:
        """The fields in `attributes` (an ONNX node's, or a plugin's field collection).

        plugin_namespace and plugin_version may be among them. A field with a default may be absent: nodes of 0.1 do not
        have it. Raises `InputError` for a missing or unknown field.
        """
        spec = attention_spec()
        names = [field.name for field in spec.fields]
        defaults = {field.name: field.default for field in spec.fields if field.default is not None}
        absent = [name for name in names if name not in attributes and name not in defaults]
        if absent:
            raise InputError(
                f"vitc::VitAttention lacks the fields {', '.join(absent)}; all of {', '.join(names)} must be written"
            )
        for name in attributes:
            if name not in ("plugin_namespace", "plugin_version"):
                spec.field(name)
        values: dict[str, Any] = {name: attributes[name] if name in attributes else defaults[name] for name in names}
        return cls(**values)


def split_scales(in_scales: Sequence[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Scales of q, k and v, one or H of each, as a node has them: three common ones, and `head_scales`.

    >>> split_scales([0.5, 0.25, 1.0, 1.0, 0.1, 0.1])
    ((0.5, 1.0, 0.1), (1.0, 0.5, 1.0, 1.0, 1.0, 1.0))
    """
    each = len(in_scales) // 3
    if each <= 1:
        return tuple(in_scales), NO_HEAD_SCALES
    parts = [in_scales[i * each : (i + 1) * each] for i in range(3)]
    common = tuple(max(part) for part in parts)
    return common, tuple(scale / top for part, top in zip(parts, common, strict=True) for scale in part)
