"""A bundle's TensorRT engine: built once on the device, kept beside the bundle, loaded after that.

An engine belongs to one bundle, one TensorRT version and one device. What it was built from is written
beside it, and one that does not fit is refused with both values named, not given to TensorRT. An engine and a plugin
are code: the record carries the seal of the user who built them, and without it nothing of the folder is loaded.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import platform
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vitc.bundle import Bundle, Dim
from vitc.bundle.onnx_refs import external_locations
from vitc.errors import BuildError, InputError
from vitc.files.plain import read_plain
from vitc.files.saving import scratch
from vitc.kernels.launch import find_cubins_in
from vitc.kernels.travel import CUBINS
from vitc.lowering import tensorrt
from vitc.lowering.cpu.engine import Engine
from vitc.ownership import is_sealed, seal, why_not_ours

_PLAN, _RECORD, _PLUGIN = "engine.plan", "engine.json", "plugin.so"

_RECORD_BYTES = 1 << 20


@dataclass(frozen=True)
class Built:
    """What lies beside the bundle: the engine's file, and what it was built from.

    `bundle` is the SHA-256 of the bundle's manifest; `capability` None means the device it was built on;
    `plugin` the SHA-256 of the compiled plugin's library, None where none was used; `machine` the name of the machine
    it was built on.
    """

    distribution: str
    version: str
    capability: str | None
    bundle: str
    plugin: str | None
    batch: tuple[int, int, int]
    plan_sha256: str
    layers: int
    machine: str


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
    library = None if plugin is None else _read_plugin(plugin)
    _load_kernels(trt, bundle, library)
    profile = _profile(bundle, batch)
    engine = tensorrt.build_engine(_model(bundle), capability=capability, profile=profile)
    built = Built(
        distribution=engine.distribution,
        version=engine.version,
        capability=engine.capability,
        bundle=_fingerprint(bundle),
        plugin=None if library is None else hashlib.sha256(library).hexdigest(),
        batch=(profile.minimum, profile.optimum, profile.maximum),
        plan_sha256=hashlib.sha256(engine.plan).hexdigest(),
        layers=len(engine.layers.layers),
        machine=platform.node(),
    )
    try:
        bundle.work.mkdir(mode=0o755, parents=True, exist_ok=True)
        # The record last: without it there is no engine, so a build that was cut off leaves none.
        if library is not None:
            _write(bundle.work / _PLUGIN, library)
        _write(bundle.work / _PLAN, engine.plan)
        sealed = {**asdict(built), "seal": seal(_plain(built))}
        _write(bundle.work / _RECORD, json.dumps(sealed, indent=1).encode())
    except OSError as error:
        raise BuildError(f"the engine can't be kept in {bundle.work}: {error}") from error
    return bundle.work / _PLAN, built


def _plain(built: Built) -> bytes:
    """The record in the one form that is sealed."""
    return json.dumps(asdict(built), sort_keys=True).encode()


def _model(bundle: Bundle) -> Path | bytes:
    """The model's checked bytes. One with external data goes by its path: TensorRT opens those files itself."""
    return bundle.model if external_locations(bundle.model) else bundle.read(bundle.manifest.model)


def _read_plugin(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BuildError(f"the plugin {path} can't be read: {error}; build it on this machine: build.sh") from error


def _profile(bundle: Bundle, batch: int | None) -> tensorrt.Profile:
    dim = bundle.manifest.dims.get("batch", Dim(1, 1))
    optimum = dim.min if batch is None else batch
    if not dim.min <= optimum <= dim.max:
        raise InputError(f"the bundle takes batch {dim.min} to {dim.max}, asked to tune for {optimum}")
    return tensorrt.Profile(dim.min, optimum, dim.max)


def _load_kernels(trt: Any, bundle: Bundle, plugin: bytes | None) -> None:
    """The compiled plugin into TensorRT's registry; the bundle's cubins within reach of the Python plugin.

    Both from copies of the checked bytes in a folder of this process: what lies elsewhere may have changed since.
    """
    prefix = f"plugin/{CUBINS}/"
    cubins = [name for name in bundle.manifest.files if name.startswith(prefix)]
    if cubins:
        folder = scratch("vitc-cubins")
        atexit.register(folder.remove)
        for name in cubins:
            (folder.path / name.removeprefix(prefix).replace("/", "_")).write_bytes(bundle.read(name))
        find_cubins_in(folder.path)
    if plugin is None:
        return
    with tempfile.TemporaryDirectory(prefix="vitc-plugin-") as own:
        copy = Path(own) / _PLUGIN
        copy.write_bytes(plugin)
        if trt.get_plugin_registry().load_library(str(copy)) is None:
            raise BuildError(f"{trt.__name__} could not load the plugin; build it on this machine: build.sh")


def load_built(bundle: Bundle) -> Engine:
    """The engine that lies beside the bundle, loaded. BuildError where there is none, or it does not fit."""
    built = read_built(bundle)
    again = f"build it again: python -m vitc.runtime build {bundle.path}"
    trt = tensorrt.load(built.distribution)
    if trt.__version__ != built.version:
        raise BuildError(
            f"the engine in {bundle.work} was built by {built.distribution} {built.version}, installed is "
            f"{trt.__version__}; {again}"
        )
    data = _checked(bundle.work / _PLAN, built.plan_sha256, again)
    library = None if built.plugin is None else _checked(bundle.work / _PLUGIN, built.plugin, again)
    _load_kernels(trt, bundle, library)
    from vitc.runtime.tensorrt_engine import TensorRtEngine

    return TensorRtEngine(trt, data)


def _checked(path: Path, stated: str, again: str) -> bytes:
    """A file's bytes, of this SHA-256 and nobody else's."""
    if (reason := why_not_ours(path)) is not None:
        raise BuildError(f"{reason}; {again}")
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != stated:
        raise BuildError(f"{path} is damaged: built as {stated}, it has {found}; {again}")
    return data


def read_built(bundle: Bundle) -> Built:
    """The record of the engine beside the bundle. BuildError where this user built none for this bundle, here."""
    path = bundle.work / _RECORD
    again = f"python -m vitc.runtime build {bundle.path}"
    if not path.is_file() or not (bundle.work / _PLAN).is_file():
        raise BuildError(f"no engine was built for {bundle.path}: {again}")
    try:
        plain = json.loads(read_plain(path, _RECORD_BYTES))
        given = plain.pop("seal", "")
        built = Built(**{**plain, "batch": tuple(plain["batch"])})
        ours = is_sealed(_plain(built), str(given))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise BuildError(f"{path} is damaged ({error}): {again}") from error
    except OSError as error:
        raise BuildError(f"{path} can't be trusted: {error}") from error
    if not ours:
        raise BuildError(
            f"the engine in {bundle.work} was not built by this user on this machine (it says {built.machine!r}, "
            f"this is {platform.node()!r}), and an engine is code: {again}"
        )
    if built.bundle != _fingerprint(bundle):
        raise BuildError(
            f"the engine in {bundle.work} was built from another bundle ({built.bundle[:12]}, this is "
            f"{_fingerprint(bundle)[:12]}): {again}"
        )
    return built


def _fingerprint(bundle: Bundle) -> str:
    return hashlib.sha256(bundle.head).hexdigest()


def _write(path: Path, data: bytes) -> None:
    partial = path.with_name(path.name + ".tmp")
    partial.write_bytes(data)
    os.replace(partial, path)
