"""Starts the attention kernel from Python: a cubin, loaded and launched through cuda.bindings.

`CubinLaunch` is the `Launch` of the TensorRT plugin's Python class and of `torch.ops.vitc.attention_int8` on a GPU;
both take the process's one, `shared_launch()`. It has never been run: no machine that built it had a GPU. What can be
checked without one is (the parameters are byte for byte those of the C++ side; the choice of variant and the refusals
are tested).
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

from vitc.errors import BuildError, InputError, missing
from vitc.kernels.build import KERNEL_NAME, build_cubin, cubin_name
from vitc.kernels.fields import MAX_SCALE_HEADS, AttentionFields
from vitc.kernels.reference import logit_factor, out_factor
from vitc.kernels.tiles import SM_LIMITS, kernel_variant
from vitc.kernels.variants import ELEMENT_BYTES, Variant

Shape: TypeAlias = "tuple[int, ...]"
CubinSource: TypeAlias = "Callable[[Variant, str], bytes]"
"""Gives the cubin of a variant for an architecture ("sm_87"): nvcc, or a folder of a bundle."""

SHARED_WITHOUT_ASKING = 48 * 1024
"""Dynamic shared memory that a kernel may use without cuFuncSetAttribute (CUDA C++ Programming Guide)."""
ALIGNMENT = 16
"""Of every tensor's address: the kernel moves 16 bytes at a time."""


class Strides(ctypes.Structure):
    """`vitc::Strides` of cuda/params.h, in elements."""

    _fields_ = (("batch", ctypes.c_int64), ("row", ctypes.c_int64), ("head", ctypes.c_int64))


class AttentionParams(ctypes.Structure):
    """`vitc::AttentionParams` of cuda/params.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("q", "k", "v", "bias", "out")),
        ("q_strides", Strides),
        ("kv_strides", Strides),
        *(
            (name, ctypes.c_int32)
            for name in ("batch", "heads", "queries", "keys", "bias_windows", "bias_heads", "bias_is_half")
        ),
        ("causal", ctypes.c_int32),
        ("scale_heads", ctypes.c_int32),
        ("logit_factors", ctypes.c_float * MAX_SCALE_HEADS),
        ("out_factors", ctypes.c_float * MAX_SCALE_HEADS),
    )


def make_params(
    fields: AttentionFields,
    shapes: Sequence[Shape],
    dtypes: Sequence[str],
    inputs: Sequence[int],
    output: int,
) -> AttentionParams:
    """The kernel's parameters: `make_params` of cuda/params.h. Addresses are the device's; dtypes as in `Launch`."""
    dim, width = fields.head_dim, fields.num_heads * fields.head_dim
    first = shapes[0]
    axis = 2 if fields.layout == "bhnd" else 1
    queries, keys = first[axis], shapes[0 if fields.layout == "packed" else 1][axis]
    if fields.layout == "packed":
        element = ELEMENT_BYTES["int8" if fields.int8_in else "fp16"]
        q_strides = kv_strides = (queries * 3 * width, 3 * width, dim)
        q, k, v = (inputs[0] + part * width * element for part in range(3))
    elif fields.layout == "bnhd":
        q_strides, kv_strides = (queries * width, width, dim), (keys * width, width, dim)
        q, k, v = inputs[:3]
    else:
        q_strides, kv_strides = (queries * width, dim, queries * dim), (keys * width, dim, keys * dim)
        q, k, v = inputs[:3]
    bias_shape = shapes[-1] if fields.has_bias else (1, 1)
    logits, outs = logit_factor(fields), out_factor(fields)
    return AttentionParams(
        q=q,
        k=k,
        v=v,
        bias=inputs[-1] if fields.has_bias else None,
        out=output,
        q_strides=Strides(*q_strides),
        kv_strides=Strides(*kv_strides),
        batch=first[0],
        heads=fields.num_heads,
        queries=queries,
        keys=keys,
        bias_windows=bias_shape[0],
        bias_heads=bias_shape[1],
        bias_is_half=int(bool(fields.has_bias) and dtypes[len(shapes) - 1] == "float16"),
        causal=fields.causal,
        scale_heads=len(logits),
        logit_factors=tuple(logits.tolist()),
        out_factors=tuple(outs.tolist()),
    )


def check_call(fields: AttentionFields, dtypes: Sequence[str], inputs: Sequence[int], outputs: Sequence[int]) -> None:
    """Raises `InputError` for dtypes the kernel has not, and for addresses that it can't read 16 bytes at."""
    names = (*fields.input_names, "out")
    wanted: dict[str, tuple[str, ...]] = {name: ("int8",) if fields.int8_in else ("float16",) for name in names}
    wanted["bias"] = ("float16", "float32")
    wanted["out"] = ("int8",) if fields.int8_out else ("float16",)
    for name, dtype, address in zip(names, dtypes, (*inputs, *outputs), strict=True):
        if dtype not in wanted[name]:
            raise InputError(
                f"{name} of vitc::VitAttention is {dtype}; the CUDA kernel takes {' or '.join(wanted[name])} here. "
                "A network in FP32 runs it with FP16 inputs, or leaves this attention to the engine"
            )
        if name != "bias" and address % ALIGNMENT:
            raise InputError(
                f"{name} of vitc::VitAttention lies at {address:#x}, and must be aligned to {ALIGNMENT} bytes"
            )


@dataclass
class Cubins:
    """Where cubins come from: the folders of bundles first, then this machine's nvcc."""

    folders: list[Path] = field(default_factory=list)

    def __call__(self, variant: Variant, arch: str) -> bytes:
        """Raises `MissingDependencyError` where no folder has it and there is no nvcc, `BuildError` where that
        fails."""
        name = cubin_name(variant, arch)
        for folder in self.folders:
            if (folder / name).is_file():
                return (folder / name).read_bytes()
        return build_cubin(variant, arch).path.read_bytes()


class CubinLaunch:
    """Loads each variant's cubin once a context, and launches it on the stream it is given.

    `prepare` does the loading ahead of time, so that a call neither loads nor allocates and a CUDA graph can capture
    it. The driver (cuda.bindings) is imported when it is first needed: a machine that only builds has none.
    """

    def __init__(self, cubins: CubinSource | None = None, driver: ModuleType | None = None) -> None:
        self.cubins: CubinSource = Cubins() if cubins is None else cubins
        self._given_driver: Any = driver
        self._loaded: dict[tuple[int, Variant], Any] = {}
        self._lock = threading.Lock()

    @cached_property
    def _driver(self) -> Any:
        return import_driver() if self._given_driver is None else self._given_driver

    def prepare(self, fields: AttentionFields) -> Variant:
        """Loads the kernel for these fields into the current context; gives the variant it chose."""
        return self._function(fields)[0]

    def __call__(
        self,
        fields: AttentionFields,
        input_shapes: Sequence[Shape],
        dtypes: Sequence[str],
        inputs: Sequence[int],
        outputs: Sequence[int],
        stream: int,
    ) -> None:
        """See `vitc.kernels.python_plugin.Launch`. Raises `InputError`, or `BuildError` where the driver refuses."""
        check_call(fields, dtypes, inputs, outputs)
        variant, function = self._function(fields)
        params = make_params(fields, input_shapes, dtypes, inputs, outputs[0])
        blocks = -(-params.queries // variant.tile.query_rows) * params.heads * params.batch
        arguments = (ctypes.c_void_p * 1)(ctypes.addressof(params))  # the driver copies the parameters at once
        self._call(
            "cuLaunchKernel",
            function,
            *(blocks, 1, 1),
            *(variant.threads, 1, 1),
            variant.shared_bytes,
            stream,
            ctypes.addressof(arguments),
            0,
        )

    def _function(self, fields: AttentionFields) -> tuple[Variant, Any]:
        context = self._call("cuCtxGetCurrent")
        arch = self._arch()
        variant = kernel_variant(fields, arch)
        key = (int(context), variant)
        with self._lock:
            if key not in self._loaded:
                self._loaded[key] = self._load(variant, arch)
            return variant, self._loaded[key]

    def _load(self, variant: Variant, arch: str) -> Any:
        module = self._call("cuModuleLoadData", self.cubins(variant, arch))
        function = self._call("cuModuleGetFunction", module, KERNEL_NAME.encode())
        if variant.shared_bytes > SHARED_WITHOUT_ASKING:
            attribute = self._driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            self._call("cuFuncSetAttribute", function, attribute, variant.shared_bytes)
        return function

    def _arch(self) -> str:
        device = self._call("cuCtxGetDevice")
        names = self._driver.CUdevice_attribute
        major = self._call("cuDeviceGetAttribute", names.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device)
        minor = self._call("cuDeviceGetAttribute", names.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device)
        arch = f"sm_{major}{minor}"
        if arch not in SM_LIMITS:
            raise InputError(
                f"the attention kernel is not built for this GPU ({arch}); it is for {', '.join(SM_LIMITS)}"
            )
        return arch

    def _call(self, name: str, *arguments: Any) -> Any:
        status, *results = getattr(self._driver, name)(*arguments)
        if int(status) != 0:
            raise BuildError(f"the CUDA driver's {name} failed with {status}")
        return results[0] if results else None


@lru_cache(maxsize=1)
def shared_launch() -> CubinLaunch:
    """The process's one launcher: TensorRT's registry takes a plugin once, so all engines share it."""
    return CubinLaunch()


def find_cubins_in(folder: Path) -> None:
    """From now on `shared_launch()` looks into `folder` for cubins, before it asks for nvcc."""
    cubins = shared_launch().cubins
    if isinstance(cubins, Cubins) and folder not in cubins.folders:
        cubins.folders.append(folder)


def import_driver() -> Any:
    """The driver module of cuda.bindings. Raises `MissingDependencyError`."""
    try:
        from cuda.bindings import driver
    except ImportError as error:
        raise missing("cuda-bindings", "launching the attention kernel", extra="cuda") from error
    return driver
