"""What of the kernel travels in a bundle: the plugin's sources for the device's own compiler, and cubins.

The C++ plugin is built by the bundle's build.sh with the device's TensorRT and CUDA. The cubins serve the plugin's
Python class where there is no compiler, TensorRT-RTX above all.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from vitc.kernels.build import CUDA_SOURCES, build_cubin, cubin_name
from vitc.kernels.fields import AttentionFields
from vitc.kernels.tiles import kernel_variant
from vitc.kernels.toolkit import find_tool

PLUGIN_SOURCES = Path(__file__).resolve().parent / "plugin"
CUBINS = "cubins"
"""The folder of `plugin_files` that the cubins lie in."""


def plugin_files(nodes: Iterable[AttentionFields], arch: str) -> dict[str, Path | bytes]:
    """The files by their path, for the attentions of a model on `arch` ("sm_87"); none for a model without.

    Cubins only where nvcc is here: without them the device's Python plugin asks for its own nvcc.
    Raises `InputError` for an architecture or a head dimension that the kernel has not, `BuildError` where nvcc fails.
    """
    variants = sorted({kernel_variant(fields, arch) for fields in nodes}, key=lambda v: v.name)
    if not variants:
        return {}
    head_dims = ";".join(str(dim) for dim in sorted({v.head_dim for v in variants}))
    options = (
        "# What this bundle's model needs; -DVITC_HEAD_DIMS= and -DCMAKE_CUDA_ARCHITECTURES= come before it.\n"
        f'set(VITC_HEAD_DIMS "{head_dims}" CACHE STRING "Head dimensions to compile")\n'
        f'set(CMAKE_CUDA_ARCHITECTURES "{arch.removeprefix("sm_")}" CACHE STRING "CUDA architectures")\n'
    )
    files: dict[str, Path | bytes] = {"options.cmake": options.encode()}
    files |= {path.name: path for path in sorted(PLUGIN_SOURCES.iterdir()) if path.is_file()}
    files |= {f"cuda/{path.name}": path for path in sorted(CUDA_SOURCES.iterdir())}
    if find_tool("nvcc"):
        files |= {f"{CUBINS}/{cubin_name(v, arch)}": build_cubin(v, arch).path for v in variants}
    return files
