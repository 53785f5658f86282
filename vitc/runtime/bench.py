"""Timing an engine, and the power it takes meanwhile."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vitc.bundle import Bundle, TensorInfo
from vitc.errors import InputError
from vitc.lowering.cpu.engine import Array, Engine
from vitc.runtime.feeds import bind
from vitc.runtime.power import Power, PowerSampler
from vitc.version import __version__

#: Of all inputs of one call: some hundred large images.
_MOST_BYTES = 2**29
_MOST_ROUNDS = 1_000_000


@dataclass(frozen=True)
class BenchReport:
    """Latency of one call in milliseconds, images a second over all rounds, and what it was measured with."""

    engine: str
    batch: int
    rounds: int
    warmup: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    min_ms: float
    mean_ms: float
    images_per_s: float
    power: Power
    versions: Mapping[str, str]

    def __str__(self) -> str:
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return (
            f"{self.engine}, batch {self.batch}: p50 {self.p50_ms:.2f} ms, p90 {self.p90_ms:.2f}, "
            f"p99 {self.p99_ms:.2f}, min {self.min_ms:.2f}; {self.images_per_s:.1f} images/s "
            f"over {self.rounds} rounds after {self.warmup}\n"
            f"power: {self.power}\nversions: {versions}"
        )


def time_engine(bundle: Bundle, engine: Engine, batch: int | None, rounds: int, warmup: int) -> BenchReport:
    """Times `rounds` calls after `warmup` that are not counted. InputError for a batch the bundle does not
    take.
    """
    for name, value, least in (("rounds", rounds, 1), ("warmup", warmup, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _MOST_ROUNDS:
            raise InputError(f"a benchmark needs {name} from {least} to {_MOST_ROUNDS}, got {value}")
    manifest = bundle.manifest
    size = _batch(bundle, batch)
    feeds = bind(manifest.inputs, manifest.dims, (), make_feeds(bundle, batch))
    for _ in range(warmup):
        engine.run(feeds)
    seconds = []
    with PowerSampler() as sampler:
        for _ in range(rounds):
            start = time.perf_counter()
            engine.run(feeds)
            seconds.append(time.perf_counter() - start)
    ms = 1e3 * np.array(seconds)
    p50, p90, p99 = (float(value) for value in np.percentile(ms, (50, 90, 99)))
    return BenchReport(
        engine=f"{engine.name} {engine.version}",
        batch=size,
        rounds=rounds,
        warmup=warmup,
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        min_ms=float(ms.min()),
        mean_ms=float(ms.mean()),
        images_per_s=size * rounds / sum(seconds),
        power=sampler.mean(),
        versions={
            "vitc": __version__,
            engine.name: engine.version,
            "numpy": np.__version__,
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        },
    )


def _batch(bundle: Bundle, batch: int | None) -> int:
    """The size of the dimension `batch` in this benchmark; a model without one is timed at its own size."""
    dims = bundle.manifest.dims
    if batch is not None and (isinstance(batch, bool) or not isinstance(batch, int)):
        raise InputError(f"a batch is a whole number, got {batch!r}")
    if "batch" in dims:
        size = dims["batch"].min if batch is None else batch
        if not dims["batch"].min <= size <= dims["batch"].max:
            raise InputError(
                f"the bundle's model takes batch {dims['batch'].min} to {dims['batch'].max}, asked to time batch {size}"
            )
        return size
    first = bundle.manifest.inputs[0].shape[:1]
    fixed = first[0] if first and isinstance(first[0], int) else 1
    if batch not in (None, fixed):
        raise InputError(f"the bundle's model has a fixed batch of {fixed}, asked to time batch {batch}")
    return fixed


def make_feeds(bundle: Bundle, batch: int | None = None) -> dict[str, Array]:
    """Inputs to run with: the first golden input repeated to this batch, or, where there is none, random
    ones.

    `batch` None: the smallest the bundle takes.
    """
    size = _batch(bundle, batch)
    shapes = {info.name: [_size(bundle, dim, size) for dim in info.shape] for info in bundle.manifest.inputs}
    # Before anything is allocated.
    total = sum(math.prod(shapes[info.name]) * np.dtype(info.dtype).itemsize for info in bundle.manifest.inputs)
    if total > _MOST_BYTES:
        raise InputError(f"inputs of batch {size} would have {total} bytes; a benchmark makes at most {_MOST_BYTES}")
    pair = next(bundle.golden(), None)
    rng = np.random.default_rng(0)
    feeds = {}
    for info in bundle.manifest.inputs:
        shape = shapes[info.name]
        feeds[info.name] = _random(info, shape, rng) if pair is None else np.resize(pair.inputs[info.name], shape)
    return feeds


def _size(bundle: Bundle, dim: int | str, batch: int) -> int:
    if isinstance(dim, int):
        return dim
    return batch if dim == "batch" else bundle.manifest.dims[dim].min


def _random(info: TensorInfo, shape: list[int], rng: np.random.Generator) -> Array:
    dtype = np.dtype(info.dtype)
    # Integers and bools are indices and masks: only 0 and 1 are sure to be valid.
    return rng.standard_normal(shape).astype(dtype) if dtype.kind == "f" else rng.integers(0, 2, shape).astype(dtype)
