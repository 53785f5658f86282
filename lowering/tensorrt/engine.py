"""From an ONNX file to a serialized engine and the table of its layers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitc.errors import BuildError
from vitc.kernels import python_plugin
from vitc.lowering.tensorrt import api
from vitc.lowering.tensorrt.capability import set_capability
from vitc.lowering.tensorrt.layers import LayerTable
from vitc.lowering.tensorrt.logger import build_log, errors
from vitc.lowering.tensorrt.network import parse_network

if TYPE_CHECKING:
    import tensorrt


@dataclass(frozen=True)
class Profile:
    """The batch sizes one engine serves: smallest, the one it is tuned for, largest."""

    minimum: int = 1
    optimum: int = 1
    maximum: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.optimum <= self.maximum:
            raise BuildError(
                f"a profile's batch sizes must rise from 1: minimum {self.minimum}, optimum {self.optimum}, "
                f"maximum {self.maximum}"
            )


@dataclass(frozen=True)
class Engine:
    """A built engine. It runs only on the TensorRT version and the compute capability it was built for."""

    plan: bytes = field(repr=False)
    layers: LayerTable = field(repr=False)
    distribution: str
    """"tensorrt" or "tensorrt_rtx"."""
    version: str
    capability: str | None
    """"SM86"; None: the device it was built on."""
    timing_cache: bytes | None = field(default=None, repr=False)


def build_engine(
    model: Path | bytes,
    *,
    capability: str | None = None,
    profile: Profile | None = None,
    timing_cache: bytes | None = None,
    distribution: str | None = None,
) -> Engine:
    """Builds `model` (an ONNX file, or its bytes) and reads the engine's layers from TensorRT's build log.

    capability: "SM86" builds with TensorRT-RTX for a device that need not be here; None for this device.
    profile: batch sizes, for inputs whose first dimension is dynamic (default: 1 only).
    distribution: "tensorrt" or "tensorrt_rtx"; None: the one that serves the capability, or this device.
    timing_cache: an earlier `Engine.timing_cache`; saves most of a rebuild where TensorRT measures kernels.
    Raises `BuildError` with TensorRT's own reason and the ONNX node, `MissingDependencyError` without one.
    """
    trt = api.find(capability) if distribution is None else api.load(distribution)
    python_plugin.register(trt)
    log = build_log(trt)
    with log.listen() as messages:
        builder = trt.Builder(log.logger)
        # Named although unused: the network points into the parser.
        network, parser = parse_network(trt, builder, log.logger, model)
        config = builder.create_builder_config()
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        if capability is not None:
            set_capability(trt, config, capability)
        _set_profile(builder, network, config, profile or Profile())
        cache = _set_timing_cache(trt, config, timing_cache)
        plan = builder.build_serialized_network(network, config)
        del parser
        if plan is None:
            reasons = "; ".join(errors(messages)) or "TensorRT gave no reason"
            raise BuildError(f"{_where(trt, capability)} could not build the engine. {reasons}")
        table = LayerTable.from_log([text for _, text in messages])
    if not table.layers:
        raise BuildError(
            f"{trt.__name__} built the engine but its log shows no layers: another logger was in use in this "
            "process before vitc's, and TensorRT takes only the first. Build in a fresh process"
        )
    return Engine(
        plan=bytes(plan),
        layers=table,
        distribution=trt.__name__,
        version=trt.__version__,
        capability=capability,
        timing_cache=bytes(cache.serialize()) if cache is not None else None,
    )


def _where(trt: Any, capability: str | None) -> str:
    return f"{trt.__name__} {trt.__version__} for {capability or 'this device'}"


def _set_profile(
    builder: tensorrt.Builder,
    network: tensorrt.INetworkDefinition,
    config: tensorrt.IBuilderConfig,
    profile: Profile,
) -> None:
    shapes = builder.create_optimization_profile()
    dynamic = False
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        shape = tuple(tensor.shape)
        if -1 not in shape:
            continue
        if -1 in shape[1:]:
            raise BuildError(
                f"input {tensor.name!r} has shape {list(shape)}; only its first dimension, the batch, may be dynamic"
            )
        dynamic = True
        batches = (profile.minimum, profile.optimum, profile.maximum)
        shapes.set_shape(tensor.name, *[(batch, *shape[1:]) for batch in batches])
    if dynamic and config.add_optimization_profile(shapes) < 0:
        raise BuildError(f"TensorRT refused the profile {profile}")


def _set_timing_cache(trt: Any, config: tensorrt.IBuilderConfig, stored: bytes | None) -> tensorrt.ITimingCache | None:
    """The cache the build reads and fills; None with TensorRT-RTX, which measures no kernels."""
    if trt.__name__ == "tensorrt_rtx":
        return None
    cache = config.create_timing_cache(stored or b"")
    if not config.set_timing_cache(cache, ignore_mismatch=False):
        raise BuildError("TensorRT refused the timing cache, of another version or device: build without it")
    return cache
