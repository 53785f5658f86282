"""The records of a manifest. All frozen, all plain data."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from vitc.bundle import limits
from vitc.bundle.structure import leaf_names
from vitc.errors import BundleError, InputError
from vitc.task import Task, check_task
from vitc.version import VERSION_FORM, version_numbers

# numpy's names. bfloat16 is not among them: numpy can't hold it, so nothing at a model's border may have it.
DTYPES = ("float32", "float16", "float64", "int8", "uint8", "int16", "int32", "int64", "bool")

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Dim:
    """The sizes a dynamic dimension may take, both ends included."""

    min: int = 1
    max: int = 64

    def __post_init__(self) -> None:
        if self.max > limits.SIZE:
            raise BundleError(f"a dimension's range ends at {self.max}; it may go to {limits.SIZE}")
        if not 1 <= self.min <= self.max:
            raise BundleError(f"a dimension's range must have 1 <= min <= max, got min {self.min}, max {self.max}")


@dataclass(frozen=True)
class TensorInfo:
    """One input or output of the model.

    `shape` holds integers, and names ("batch") for dynamic dimensions. `preprocessing` is free JSON that
    says how to make the input from an image (mean, std, size, interpolation), as the model's own
    configuration has it.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    preprocessing: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        _check_name("an input or output", self.name)
        if self.dtype not in DTYPES:
            raise BundleError(f"tensor {self.name!r} has dtype {self.dtype!r}; a bundle knows: {', '.join(DTYPES)}")
        for size in self.shape:
            if isinstance(size, bool) or not isinstance(size, int | str) or size == "" or size == 0:
                raise BundleError(
                    f"tensor {self.name!r} has the dimension {size!r} in {list(self.shape)}; a dimension is "
                    f"a positive integer or the name of a dynamic one"
                )
            if isinstance(size, str):
                _check_name(f"a dimension of tensor {self.name!r}", size)
            elif not 0 < size <= limits.SIZE:
                sign = "negative" if size < 0 else "too large a"
                raise BundleError(f"tensor {self.name!r} has the {sign} dimension {size} in {list(self.shape)}")
        if len(self.shape) > limits.RANK:
            raise BundleError(f"tensor {self.name!r} has {len(self.shape)} dimensions; at most {limits.RANK} can be")

    def least_bytes(self, dims: Mapping[str, Dim]) -> int:
        """What an array of this dtype and its smallest shape takes; a dimension that `dims` lacks counts as one."""
        sizes = (size if isinstance(size, int) else dims[size].min if size in dims else 1 for size in self.shape)
        return math.prod(sizes) * np.dtype(self.dtype).itemsize


def _check_name(what: str, name: str) -> None:
    if not name:
        raise BundleError(f"{what} needs a name, got ''")
    if len(name) > limits.NAME or not name.isprintable():
        raise BundleError(
            f"{what} has the name {name[:80]!r}{'…' if len(name) > 80 else ''}; a name is at most {limits.NAME} "
            "characters that can be printed"
        )


@dataclass(frozen=True)
class VersionRange:
    """TensorRT versions an engine may be built with: `min` <= version < `below`."""

    min: str
    below: str

    def __post_init__(self) -> None:
        for text in (self.min, self.below):
            if not VERSION_FORM.fullmatch(text):
                raise BundleError(f"a TensorRT version is numbers with dots between, like 10.3; got {text[:80]!r}")
        if not version_numbers(self.min) < version_numbers(self.below):
            raise BundleError(f"a version range must have min < below, got min {self.min}, below {self.below}")

    def __contains__(self, version: str) -> bool:
        numbers = version_numbers(version)
        return version_numbers(self.min) <= numbers < version_numbers(self.below)

    def __str__(self) -> str:
        return f">={self.min},<{self.below}"


@dataclass(frozen=True)
class Tolerance:
    """How near an output must come to its golden one for the self-check to pass.

    `cosine` is a lower bound of the cosine similarity, `relative` an upper bound of ||got - golden||2 /
    ||golden||2.
    """

    cosine: float = 0.9999
    relative: float = 0.01

    def __post_init__(self) -> None:
        if not -1.0 <= self.cosine <= 1.0:
            raise BundleError(f"a tolerance's cosine lies in [-1, 1], got {self.cosine}")
        if not self.relative >= 0.0:
            raise BundleError(f"a tolerance's relative error is at least 0, got {self.relative}")


@dataclass(frozen=True)
class FileRecord:
    """One file of the bundle: its SHA-256 in hexadecimal, and its size in bytes."""

    sha256: str
    bytes: int

    def __post_init__(self) -> None:
        if not _SHA256.fullmatch(self.sha256):
            raise BundleError(f"a SHA-256 is 64 hexadecimal digits, got {self.sha256[:80]!r}")
        if not 0 <= self.bytes <= limits.BYTES:
            raise BundleError(f"a bundle's file has 0 to {limits.BYTES} bytes, got {self.bytes}")


@dataclass(frozen=True)
class GoldenFiles:
    """One golden pair: tensor name -> path of its .npy file inside the bundle."""

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


@dataclass(frozen=True)
class Manifest:
    """What manifest.json says. `structure` is described in vitc.bundle.structure."""

    vitc: str
    pipeline: str
    target: Mapping[str, Any]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    structure: Any
    dims: Mapping[str, Dim] = field(default_factory=lambda: MappingProxyType({}))
    tensorrt: VersionRange | None = None
    tolerance: Tolerance = field(default_factory=Tolerance)
    golden: tuple[GoldenFiles, ...] = ()
    calibration: str | None = None
    plugin: tuple[str, ...] = ()
    model: str = "model.onnx"
    files: Mapping[str, FileRecord] = field(default_factory=lambda: MappingProxyType({}))
    task: Task | None = None

    def __post_init__(self) -> None:
        self._check_tensors()
        total = sum(record.bytes for record in self.files.values())
        if total > limits.BYTES:
            raise BundleError(f"the files have {total} bytes together; a bundle has at most {limits.BYTES}")
        outputs = {info.name for info in self.outputs}
        for name in leaf_names(self.structure):
            if name not in outputs:
                raise BundleError(f"the output structure names {name!r}; the outputs are: {', '.join(sorted(outputs))}")
        if self.task is not None:
            try:
                check_task(self.task, self.structure, {info.name: info.shape for info in self.outputs})
            except InputError as error:
                raise BundleError(f"the task does not fit the outputs: {error}") from error
        for pair in self.golden:
            for kind, tensors, infos in (
                ("inputs", pair.inputs, self.inputs),
                ("outputs", pair.outputs, self.outputs),
            ):
                if set(tensors) != {info.name for info in infos}:
                    raise BundleError(
                        f"a golden pair has the {kind} {sorted(tensors)}; the model has {[info.name for info in infos]}"
                    )

    def _check_tensors(self) -> None:
        if not self.inputs or not self.outputs:
            raise BundleError(
                f"a bundle needs at least one input and one output, got {len(self.inputs)} and {len(self.outputs)}"
            )
        for name in self.dims:
            _check_name("a dynamic dimension", name)
        for kind, infos in (("input", self.inputs), ("output", self.outputs)):
            names = [info.name for info in infos]
            if len(names) > limits.TENSORS:
                raise BundleError(f"a bundle has at most {limits.TENSORS} {kind}s, got {len(names)}")
            doubles = sorted({name for name in names if names.count(name) > 1})
            if doubles:
                raise BundleError(f"two {kind}s have the same name: {', '.join(doubles)}")
            for info in infos:
                if info.least_bytes(self.dims) > limits.TENSOR_BYTES:
                    raise BundleError(
                        f"{kind} {info.name!r} takes {info.least_bytes(self.dims)} bytes at its smallest; a bundle's "
                        f"tensor takes at most {limits.TENSOR_BYTES}"
                    )
            # An output may have a size derived from a dynamic one ("dim(4*batch)"): only inputs need a range.
            for info in infos if kind == "input" else ():
                for size in info.shape:
                    if isinstance(size, str) and size not in self.dims:
                        raise BundleError(
                            f"{kind} {info.name!r} has the dynamic dimension {size!r}; the bundle has a "
                            f"range for: {', '.join(sorted(self.dims)) or '(none)'}"
                        )
