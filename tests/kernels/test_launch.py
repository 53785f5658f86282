"""The Python launcher, against the C++ side's own parameters and a driver that only writes down what it is asked."""

from __future__ import annotations

import builtins
import ctypes
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vitc.errors import BuildError, InputError, MissingDependencyError
from vitc.kernels.build import cubin_name
from vitc.kernels.fields import AttentionFields
from vitc.kernels.harness import Harness
from vitc.kernels.launch import (
    AttentionParams,
    CubinLaunch,
    Cubins,
    find_cubins_in,
    import_driver,
    make_params,
    shared_launch,
)
from vitc.kernels.tiles import DEFAULT_TILE
from vitc.kernels.variants import variant_of

NODE = AttentionFields("packed", 3, 64, 0.125, 0, 64, 64, "int8", 0.02, 0.03, 0.04, 0.05)
HALF = dataclasses.replace(NODE, pv="fp16", q_scale=0.0, k_scale=0.0, v_scale=0.0, out_scale=0.0)


class FakeDriver:
    """Answers as the driver of an AGX Orin would."""

    class CUfunction_attribute:
        CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8

    class CUdevice_attribute:
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76

    def __init__(self, minor: int = 7, failing: str | None = None) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.answers = {
            "cuCtxGetCurrent": 1,
            "cuCtxGetDevice": 0,
            "cuModuleLoadData": 2,
            "cuModuleGetFunction": 3,
        }
        self.minor, self.failing = minor, failing
        self.params: AttentionParams | None = None

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append((name, arguments))
            if name == self.failing:
                return (719,)
            if name == "cuDeviceGetAttribute":
                return 0, 8 if arguments[0] == 75 else self.minor
            if name == "cuLaunchKernel":
                pointer = ctypes.cast(arguments[9], ctypes.POINTER(ctypes.c_void_p))[0]
                self.params = AttentionParams.from_buffer_copy(
                    ctypes.string_at(pointer, ctypes.sizeof(AttentionParams))
                )
                return (0,)
            return (0, self.answers[name]) if name in self.answers else (0,)

        return call

    def named(self, name: str) -> list[tuple[Any, ...]]:
        return [arguments for called, arguments in self.calls if called == name]


def launcher(driver: FakeDriver) -> CubinLaunch:
    return CubinLaunch(lambda variant, arch: f"{variant.name} {arch}".encode(), driver=driver)  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", ["packed", "bnhd", "bhnd"])
@pytest.mark.parametrize("base", [NODE, HALF], ids=["int8", "fp16"])
@pytest.mark.parametrize("by_head", [False, True])
@pytest.mark.parametrize("bias", [None, np.float16, np.float32])
def test_parameters_are_those_of_the_cpp_side(
    layout: str, base: AttentionFields, bias: type | None, by_head: bool
) -> None:
    if by_head and not base.int8_in:
        pytest.skip("FP16 inputs have no scales")
    if by_head:
        base = dataclasses.replace(base, head_scales=tuple(np.linspace(0.3, 2.7, 9).tolist()))
    fields = dataclasses.replace(base, layout=layout, has_bias=int(bias is not None))
    dtype = np.dtype(np.int8 if fields.int8_in else np.float16)
    keys = 5 if layout == "packed" else 9
    shapes = {
        "packed": [(4, 5, 3 * 192)],
        "bnhd": [(4, 5, 192), (4, keys, 192), (4, keys, 192)],
        "bhnd": [(4, 3, 5, 64), (4, 3, keys, 64), (4, 3, keys, 64)],
    }[layout]
    arrays = [np.zeros(shape, dtype) for shape in shapes]
    if bias is not None:
        arrays.append(np.zeros((2, 3, 5, keys), bias))
    out = np.zeros((4, 5, 192), np.int8 if fields.int8_out else np.float16)
    made = make_params(
        fields,
        [a.shape for a in arrays],
        [*(a.dtype.name for a in arrays), out.dtype.name],
        [a.ctypes.data for a in arrays],
        out.ctypes.data,
    )
    machine = Harness([variant_of(NODE, DEFAULT_TILE)])
    assert bytes(made) == machine.params(fields, arrays, out)


def test_a_launch() -> None:
    driver = FakeDriver()
    start = launcher(driver)
    for _ in range(2):
        start(NODE, [(2, 197, 576)], ["int8", "int8"], [4096], [8192], 7)
    assert driver.named("cuModuleLoadData") == [(b"d64_int8_pv-int8_int8_64x64x4 sm_87",)]  # once
    assert driver.named("cuModuleGetFunction") == [(2, b"vitc_attention")]
    first = driver.named("cuLaunchKernel")[0]
    assert first[:9] == (3, 4 * 3 * 2, 1, 1, 128, 1, 1, 20480, 7)
    assert driver.params is not None
    assert (driver.params.q, driver.params.k, driver.params.out) == (4096, 4096 + 192, 8192)
    assert not driver.named("cuFuncSetAttribute")


def test_large_shared_memory_is_asked_for_ahead() -> None:
    driver = FakeDriver()
    variant = launcher(driver).prepare(dataclasses.replace(HALF, head_dim=128))
    assert driver.named("cuFuncSetAttribute") == [(3, 8, variant.shared_bytes)]
    assert not driver.named("cuLaunchKernel")


@pytest.mark.parametrize(
    ("dtypes", "addresses", "message"),
    [
        (
            ["float32", "int8"],
            (4096, 8192),
            "qkv of vitc::VitAttention is float32; the CUDA kernel takes int8 here",
        ),
        (
            ["int8", "float32"],
            (4096, 8192),
            "out of vitc::VitAttention is float32; the CUDA kernel takes int8 here",
        ),
        (["int8", "int8"], (4100, 8192), "lies at 0x1004, and must be aligned to 16 bytes"),
    ],
)
def test_refusals(dtypes: list[str], addresses: tuple[int, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        launcher(FakeDriver())(NODE, [(2, 197, 576)], dtypes, [addresses[0]], [addresses[1]], 0)


def test_a_gpu_it_is_not_built_for() -> None:
    with pytest.raises(InputError, match=r"not built for this GPU \(sm_88\); it is for sm_75"):
        launcher(FakeDriver(minor=8)).prepare(NODE)


def test_the_driver_refuses() -> None:
    with pytest.raises(BuildError, match="cuLaunchKernel failed with 719"):
        launcher(FakeDriver(failing="cuLaunchKernel"))(NODE, [(1, 1, 576)], ["int8", "int8"], [0], [0], 0)


def test_cubins_come_from_a_bundle_before_nvcc_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variant = variant_of(NODE, DEFAULT_TILE)
    (tmp_path / cubin_name(variant, "sm_87")).write_bytes(b"travelled")
    monkeypatch.setattr("vitc.kernels.build.find_tool", lambda name: None)
    cubins = Cubins([tmp_path / "nowhere", tmp_path])
    assert cubins(variant, "sm_87") == b"travelled"
    with pytest.raises(MissingDependencyError, match="needs nvcc, which is neither in CUDA_HOME"):
        cubins(variant, "sm_86")


def test_a_bundle_s_folder_is_added_once(tmp_path: Path) -> None:
    cubins = shared_launch().cubins
    assert isinstance(cubins, Cubins)
    before = list(cubins.folders)
    find_cubins_in(tmp_path)
    find_cubins_in(tmp_path)
    assert cubins.folders == [*before, tmp_path]
    cubins.folders[:] = before


def test_the_driver_s_real_names() -> None:
    """What FakeDriver answers to is there in cuda.bindings, under the same names."""
    real = pytest.importorskip("cuda.bindings.driver")
    driver = FakeDriver()
    start = launcher(driver)
    start(dataclasses.replace(HALF, head_dim=128), [(1, 5, 1152)], ["float16", "float16"], [4096], [8192], 7)
    assert {name for name, _ in driver.calls} >= {"cuModuleLoadData", "cuLaunchKernel", "cuFuncSetAttribute"}
    for name, _ in driver.calls:
        assert callable(getattr(real, name))
    for kind in (FakeDriver.CUfunction_attribute, FakeDriver.CUdevice_attribute):
        for name, value in vars(kind).items():
            if name.startswith("CU_"):
                assert int(getattr(getattr(real, kind.__name__), name)) == value


def test_without_cuda_bindings(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def no_cuda(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith("cuda"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", no_cuda)
    with pytest.raises(
        MissingDependencyError, match="launching the attention kernel needs the package 'cuda-bindings'"
    ):
        import_driver()
