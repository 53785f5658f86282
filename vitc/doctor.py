"""What is installed here, which targets can be built, and why the others can't."""

from __future__ import annotations

import importlib.metadata
import platform

from vitc.kernels.toolkit import find_tool
from vitc.lowering.cpu import NATIVE, native_refusal
from vitc.lowering.cpu import available as cpu_engines
from vitc.targets import available, load

_PACKAGES = (
    "torch", "onnx", "onnx-graphsurgeon", "onnxruntime", "openvino", "tensorrt", "tensorrt-rtx", "timm", "transformers",
    "torchvision",
)  # fmt: skip


def examine() -> dict[str, str]:
    """Findings by name, in the order they are printed."""
    found = {"python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}
    for package in _PACKAGES:
        found[package] = _version(package) or f"not installed: pip install {package}"
    found["nvcc"] = (
        find_tool("nvcc") or "not found: no attention kernel is built here (pip install 'vitc[nvcc]'); all else works"
    )
    for name, reason in cpu_engines().items():
        found[f"engine {name}"] = reason or "ready"
    refusal = native_refusal()
    found[f"engine {NATIVE}"] = f"not for INT8 here: {refusal}" if refusal else "ready, for INT8"
    for name in available():
        found[f"target {name}"] = _target(name)
    return found


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _target(name: str) -> str:
    target = load(name)
    if target.kind == "cpu":
        return "compiles and runs here"
    rtx = _version("tensorrt-rtx")
    if target.rtx_buildable:
        how = f"TensorRT-RTX {rtx} builds its engine here" if rtx else "engine: pip install 'vitc[rtx]' builds it here"
    elif rtx:
        how = (
            f"its engine is built on the device; TensorRT-RTX {rtx} proves the network here for"
            f" {target.proof_capability}"
        )
    else:
        how = "its engine is built on the device; pip install 'vitc[rtx]' to prove the network here"
    return f"compiles here to a bundle; {how}"
