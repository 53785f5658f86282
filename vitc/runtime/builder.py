"""A bundle's TensorRT engine: built once on the device, kept beside the bundle, loaded after that.

An engine belongs to one bundle, one TensorRT version and one device. What it was built from is written
beside it, and one that does not fit is refused with both values named, not given to TensorRT.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vitc.bundle import Bundle, Dim
from vitc.errors import BuildError, InputError
from vitc.kernels.launch import find_cubins_in
from vitc.kernels.travel import CUBINS
from vitc.lowering import tensorrt
from vitc.lowering.cpu.engine import Engine

_PLAN, _RECORD = "engine.plan", "engine.json"


@dataclass(frozen=True)
class Built:
    """What lies beside the bundle: the engine's file, and what it was built from.

    `bundle` is the SHA-256 of the bundle's manifest; `capability` None means the device it was built on;
    `plugin` the compiled plugin's library, None where none was used.
    """

    distribution: str
    version: str
    capability: str | None
    bundle: str
    plugin: str | None
    batch: tuple[int, int, int]
    plan_sha256: str
    layers: int


def build(
    bundle: Bundle, batch: int | None = None, plugin: Path | None = None, capability: str | None = None
) -> tuple[Path, Built]:
    """Builds the engine into `bundle.work`. Returns its path and record.

    batch:      the batch size that TensorRT tunes for; None: the smallest. The engine serves the bundle's whole range.
    plugin:     the library of the compiled attention plugin.
    capability: "SM86": builds for another machine, with TensorRT-RTX.

    Raises BuildError where the bundle is for a CPU, TensorRT is outside the bundle's versions, or the build failed;
    MissingDependencyError where there is no TensorRT.
    """
    accepted = bundle.manifest.tensorrt
    if accepted is None:
        raise BuildError(
            f"the bundle {bundle.path} is for the target {bundle.manifest.target.get('name')!r}, whose "
            f"engine needs no build; run it as it is"
        )
    trt = tensorrt.find(capability)
    # The bundle's versions are TensorRT's; TensorRT-RTX counts its own.
    if trt.__name__ == "tensorrt" and trt.__version__ not in accepted:
        raise BuildError(f"the bundle {bundle.path} is for TensorRT {accepted}; {trt.__version__} is installed")
    _load_kernels(trt, bundle, plugin)
    profile = _profile(bundle, batch)
    engine = tensorrt.build_engine(bundle.model, capability=capability, profile=profile)
    built = Built(
        distribution=engine.distribution,
        version=engine.version,
        capability=engine.capability,
        bundle=_fingerprint(bundle),
        plugin=None if plugin is None else str(plugin.absolute()),
        batch=(profile.minimum, profile.optimum, profile.maximum),
        plan_sha256=hashlib.sha256(engine.plan).hexdigest(),
        layers=len(engine.layers.layers),
    )
    bundle.work.mkdir(parents=True, exist_ok=True)
    # The record last: without it there is no engine, so a build that was cut off leaves none.
    _write(bundle.work / _PLAN, engine.plan)
    _write(bundle.work / _RECORD, json.dumps(asdict(built), indent=1).encode())
    return bundle.work / _PLAN, built


def _profile(bundle: Bundle, batch: int | None) -> tensorrt.Profile:
    dim = bundle.manifest.dims.get("batch", Dim(1, 1))
    optimum = dim.min if batch is None else batch
    if not dim.min <= optimum <= dim.max:
        raise InputError(f"the bundle takes batch {dim.min} to {dim.max}, asked to tune for {optimum}")
    return tensorrt.Profile(dim.min, optimum, dim.max)


def _load_kernels(trt: Any, bundle: Bundle, plugin: Path | None) -> None:
    """The compiled plugin into TensorRT's registry; the bundle's cubins within reach of the Python plugin."""
    find_cubins_in(bundle.root / "plugin" / CUBINS)
    if plugin is not None and trt.get_plugin_registry().load_library(str(plugin)) is None:
        raise BuildError(f"{trt.__name__} could not load the plugin {plugin}; build it on this machine: build.sh")


def load_built(bundle: Bundle) -> Engine:
    """The engine that lies beside the bundle, loaded. BuildError where there is none, or it does not fit."""
    built = read_built(bundle)
    data = (bundle.work / _PLAN).read_bytes()
    found = hashlib.sha256(data).hexdigest()
    again = f"build it again: python -m vitc.runtime build {bundle.path}"
    if found != built.plan_sha256:
        raise BuildError(f"{bundle.work / _PLAN} is damaged: built as {built.plan_sha256}, it has {found}; {again}")
    trt = tensorrt.load(built.distribution)
    if trt.__version__ != built.version:
        raise BuildError(
            f"the engine in {bundle.work} was built by {built.distribution} {built.version}, installed is "
            f"{trt.__version__}; {again}"
        )
    _load_kernels(trt, bundle, None if built.plugin is None else Path(built.plugin))
    from vitc.runtime.tensorrt_engine import TensorRtEngine

    return TensorRtEngine(trt, data)


def read_built(bundle: Bundle) -> Built:
    """The record of the engine beside the bundle. BuildError where there is none for this bundle."""
    path = bundle.work / _RECORD
    if not path.is_file() or not (bundle.work / _PLAN).is_file():
        raise BuildError(f"no engine was built for {bundle.path}: python -m vitc.runtime build {bundle.path}")
    try:
        plain = json.loads(path.read_bytes())
        built = Built(**{**plain, "batch": tuple(plain["batch"])})
    except (ValueError, TypeError, KeyError) as error:
        raise BuildError(f"{path} is damaged ({error}): python -m vitc.runtime build {bundle.path}") from error
    if built.bundle != _fingerprint(bundle):
        raise BuildError(
            f"the engine in {bundle.work} was built from another bundle ({built.bundle[:12]}, this is "
            f"{_fingerprint(bundle)[:12]}): python -m vitc.runtime build {bundle.path}"
        )
    return built


def _fingerprint(bundle: Bundle) -> str:
    return hashlib.sha256((bundle.root / "manifest.json").read_bytes()).hexdigest()


def _write(path: Path, data: bytes) -> None:
    partial = path.with_name(path.name + ".tmp")
    partial.write_bytes(data)
    os.replace(partial, path)
