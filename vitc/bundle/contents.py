"""What a caller hands over to be written as a bundle: a plain record, no paths in it to invent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from vitc.bundle.records import Dim, TensorInfo, Tolerance, VersionRange
from vitc.task import Task


@dataclass(frozen=True)
class Golden:
    """One input and the outputs the reference gave for it: tensor name -> array."""

    inputs: Mapping[str, npt.NDArray[np.generic]]
    outputs: Mapping[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class BundleContents:
    """Everything that goes into a bundle.

    `model` is the ONNX file's path or its bytes; `external_data` maps the locations it names to the files
    that hold them (models over 2 GB). `target` and `calibration` are JSON. `plugin` maps paths below
    `plugin/` to the sources. `dims` gives the range of each named dimension of `inputs` and `outputs`.
    """

    model: Path | bytes
    pipeline: str
    target: Mapping[str, Any]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    structure: Mapping[str, Any]
    dims: Mapping[str, Dim] = field(default_factory=lambda: MappingProxyType({"batch": Dim()}))
    external_data: Mapping[str, Path] = field(default_factory=lambda: MappingProxyType({}))
    tensorrt: VersionRange | None = None
    tolerance: Tolerance = field(default_factory=Tolerance)
    golden: tuple[Golden, ...] = ()
    calibration: Mapping[str, Any] | None = None
    plugin: Mapping[str, Path | bytes] = field(default_factory=lambda: MappingProxyType({}))
    task: Task | None = None
