"""Which TensorRT is here: `tensorrt` (the device's own) or `tensorrt_rtx` (builds without a GPU)."""

from __future__ import annotations

import importlib
import sys
from functools import cache
from typing import Any

from vitc.errors import BuildError, MissingDependencyError, unknown
from vitc.lowering.tensorrt.elf_alias import load_alias
from vitc.version import version_numbers

# Lowest and first unsupported version. 10.3 is JetPack 6.2's; TensorRT-RTX 1.3 is the first with
# Builder(...).num_compute_capabilities, so with engines for other machines than this one.
SUPPORTED = {"tensorrt": ("10.3", "12"), "tensorrt_rtx": ("1.3", "2")}
INSTALL = {
    "tensorrt": "it comes with JetPack on a Jetson; elsewhere: pip install tensorrt",
    "tensorrt_rtx": "pip install 'vitc[rtx]'",
}


@cache
def load(name: str) -> Any:
    """The module `tensorrt` or `tensorrt_rtx`, ready to parse plugin nodes.

    Raises `MissingDependencyError` where it is not installed or its libraries do not load, `BuildError` where
    its version is outside of what vitc was written for.
    """
    if name not in SUPPORTED:
        raise BuildError(unknown("TensorRT distribution", name, SUPPORTED))
    try:
        trt = importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise MissingDependencyError(f"{name} is not installed: {INSTALL[name]}") from error
    except (ImportError, OSError, RuntimeError) as error:
        raise MissingDependencyError(
            f"{name} is installed, but its libraries do not load ({error}): {INSTALL[name]}"
        ) from error
    lowest, too_high = SUPPORTED[name]
    if not numbers(lowest) <= numbers(trt.__version__) < numbers(too_high):
        raise BuildError(f"{name} {trt.__version__} is installed; vitc needs at least {lowest}, below {too_high}")
    if name == "tensorrt_rtx" and sys.platform == "linux":
        # The wheel carries libtensorrt_rtx.so.1 only, and its ONNX parser opens libtensorrt_rtx.so by name
        # before the first plugin node: without this the process aborts there.
        load_alias("libtensorrt_rtx.so", "libtensorrt_rtx.so.1")
    return trt


def find(capability: str | None = None) -> Any:
    """The module to build with.

    For `capability` ("SM86", a device that need not be here) TensorRT-RTX; for this device `tensorrt` where
    it loads, else TensorRT-RTX. Raises `MissingDependencyError` saying why none serves.
    """
    if capability is not None:
        return load("tensorrt_rtx")
    reasons = []
    for name in SUPPORTED:
        try:
            return load(name)
        except (MissingDependencyError, BuildError) as error:
            reasons.append(str(error))
    raise MissingDependencyError("no TensorRT can be used here. " + ". ".join(reasons))


def available() -> dict[str, str]:
    """Each distribution's version, or why it can't be used: what `vitc doctor` prints."""
    found = {}
    for name in SUPPORTED:
        try:
            found[name] = str(load(name).__version__)
        except (MissingDependencyError, BuildError) as error:
            found[name] = str(error)
    return found


def require_version(trt: Any, minimum: str, maximum: str, needed_for: str) -> None:
    """Raises `BuildError` where `trt` is not from `minimum` to `maximum`, both included.

    Only as many parts are compared as the bound has: 10.16.1 is within a maximum of 10.16.
    """
    version = numbers(trt.__version__)
    low, high = numbers(minimum), numbers(maximum)
    if version[: len(low)] < low or version[: len(high)] > high:
        raise BuildError(f"{needed_for} needs {trt.__name__} {minimum} to {maximum}; {trt.__version__} is installed")


def numbers(version: str) -> tuple[int, ...]:
    """(10, 16, 1, 11) of "10.16.1.11"; what follows the numbers is not compared."""
    found = version_numbers(version)
    if not found:
        raise BuildError(f"{version!r} is not a version: it must begin with numbers, as 10.3 does")
    return found
