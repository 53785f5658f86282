"""Building for a device that is not here. Only TensorRT-RTX can, so only its API has these names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vitc.errors import BuildError

if TYPE_CHECKING:
    import tensorrt


def set_capability(trt: Any, config: tensorrt.IBuilderConfig, capability: str) -> None:
    """Makes `config` build for one compute capability ("SM86"). Raises `BuildError` with those there are."""
    known = trt.ComputeCapability.__members__
    devices = [name for name in known if name.startswith("SM")]
    if capability not in devices:
        raise BuildError(
            f"{trt.__name__} {trt.__version__} has no compute capability {capability!r}; it has {', '.join(devices)}"
        )
    config.num_compute_capabilities = 1
    if not config.set_compute_capability(known[capability], 0):  # the second is the index among these
        raise BuildError(f"{trt.__name__} {trt.__version__} refused the compute capability {capability}")
