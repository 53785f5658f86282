"""The played machine's instructions against their published fragment layouts and NumPy.

The layouts are written down here a second time and another way than in machine.cpp: as shapes and strides over
(thread, value) -> row + rows * column, the form and the numbers of CUTLASS's MMA_Traits (include/cute/atom/
mma_traits_sm80.hpp and mma_traits_sm75.hpp), which NVIDIA's own kernels run on.
"""

from __future__ import annotations

import ctypes
import itertools
import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from vitc.kernels import harness

Modes = tuple[tuple[int, int], ...]
"""((extent, stride), ...), the first running fastest."""
THREADS_ROW32: Modes = ((4, 32), (8, 1))
THREADS_ROW16: Modes = ((4, 16), (8, 1))
THREADS_ROW64: Modes = ((4, 64), (8, 1))
C_16X8 = (THREADS_ROW32, ((2, 16), (2, 8)))
C_8X8 = (THREADS_ROW16, ((2, 8),))

# (M, K), A, B, C
INTEGER = {
    0: ((16, 32), (THREADS_ROW64, ((4, 16), (2, 8), (2, 256))), (THREADS_ROW32, ((4, 8), (2, 128))), C_16X8),
    2: ((16, 16), (THREADS_ROW64, ((4, 16), (2, 8))), (THREADS_ROW32, ((4, 8),)), C_16X8),
    3: ((8, 16), (THREADS_ROW32, ((4, 8),)), (THREADS_ROW32, ((4, 8),)), C_8X8),
}
INTEGER[1], INTEGER[4] = INTEGER[0], INTEGER[3]
UNSIGNED_A = {1, 4}
HALF = {
    0: ((16, 16), (THREADS_ROW32, ((2, 16), (2, 8), (2, 128))), (THREADS_ROW16, ((2, 8), (2, 64))), C_16X8),
    1: ((16, 8), (THREADS_ROW32, ((2, 16), (2, 8))), (THREADS_ROW16, ((2, 8),)), C_16X8),
}


def places(modes: Modes) -> list[int]:
    ranges = [range(0, extent * stride, stride) for extent, stride in reversed(modes)]
    return [sum(offsets) for offsets in itertools.product(*ranges)]


def scatter(matrix: npt.NDArray[np.generic], layout: tuple[Modes, Modes]) -> npt.NDArray[np.generic]:
    """[32, values]: each thread's elements of a matrix whose rows run fastest."""
    threads, values = (np.array(places(m)) for m in layout)
    return matrix.ravel(order="F")[threads[:, None] + values[None]]


def registers(fragment: npt.NDArray[np.generic], count: int) -> npt.NDArray[np.uint32]:
    packed = np.ascontiguousarray(fragment).view(np.uint32)
    return np.ascontiguousarray(np.pad(packed, ((0, 0), (0, count - packed.shape[1]))))


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    library = tmp_path_factory.mktemp("shim") / "shim.so"
    sources = [str(Path(__file__).parent / "machine_shim.cpp"), str(harness.HARNESS_SOURCES / "machine.cpp")]
    command = [harness.host_compiler(), *harness.FLAGS, "-shared", f"-I{harness.HARNESS_SOURCES}", *sources]
    subprocess.run([*command, "-o", str(library)], check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.shim_float_to_half.argtypes, loaded.shim_float_to_half.restype = [ctypes.c_float], ctypes.c_uint16
    loaded.shim_permute.restype = ctypes.c_uint32
    return loaded


def pointer(array: npt.NDArray[np.generic]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


@pytest.mark.parametrize("which", INTEGER)
def test_integer_products(shim: ctypes.CDLL, which: int) -> None:
    (rows, depth), a_layout, b_layout, c_layout = INTEGER[which]
    rng = np.random.default_rng(which)
    a_type = np.uint8 if which in UNSIGNED_A else np.int8
    low, high = (0, 256) if which in UNSIGNED_A else (-128, 128)
    a = rng.integers(low, high, (rows, depth)).astype(a_type)
    b = rng.integers(-128, 128, (8, depth)).astype(np.int8)
    c = rng.integers(-1000, 1000, (rows, 8)).astype(np.int32)
    true = c + a.astype(np.int32) @ b.astype(np.int32).T
    d = registers(scatter(c, c_layout), 4)
    assert (
        shim.shim_mma_integer(
            which,
            pointer(registers(scatter(a, a_layout), 4)),
            pointer(registers(scatter(b, b_layout), 2)),
            pointer(d),
        )
        == 0
    )
    wanted = scatter(true, c_layout)
    np.testing.assert_array_equal(d.view(np.int32)[:, : wanted.shape[1]], wanted)


@pytest.mark.parametrize("which", HALF)
def test_half_products(shim: ctypes.CDLL, which: int) -> None:
    (rows, depth), a_layout, b_layout, c_layout = HALF[which]
    rng = np.random.default_rng(which)
    a, b = (rng.integers(-8, 9, (n, depth)).astype(np.float16) for n in (rows, 8))
    c = rng.integers(-8, 9, (rows, 8)).astype(np.float32)  # small integers: exact in any order
    d = registers(scatter(c, c_layout), 4)
    assert (
        shim.shim_mma_half(
            which,
            pointer(registers(scatter(a, a_layout), 4)),
            pointer(registers(scatter(b, b_layout), 2)),
            pointer(d),
        )
        == 0
    )
    true = c + a.astype(np.float32) @ b.astype(np.float32).T
    np.testing.assert_array_equal(d.view(np.float32), scatter(true, c_layout))


@pytest.mark.parametrize("transposed", [0, 1])
def test_load_matrix(shim: ctypes.CDLL, transposed: int) -> None:
    """Thread t has elements (t / 4, 2 * (t % 4)) and the next of each matrix, or of its transpose (PTX ISA,
    ldmatrix)."""
    matrices = np.arange(4 * 64, dtype=np.uint16).reshape(4, 8, 8)
    got = np.zeros((32, 4), np.uint32)
    assert shim.shim_load_matrix(transposed, pointer(matrices), pointer(got)) == 0
    seen = matrices.transpose(0, 2, 1) if transposed else matrices
    wanted = np.ascontiguousarray(seen).reshape(4, 32, 2).view(np.uint32)[..., 0].T
    np.testing.assert_array_equal(got, wanted)


def test_half_conversion_rounds_as_numpy(shim: ctypes.CDLL) -> None:
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    middles = (halves[:-1] + halves[1:]) / 2
    values = np.concatenate([halves[::7], middles[::7], np.nextafter(middles[::11], np.float32(0)), [65519.0, 65520.0]])
    for value in np.concatenate([values, -values]).astype(np.float32):
        with np.errstate(over="ignore"):
            assert shim.shim_float_to_half(float(value)) == int(value.astype(np.float16).view(np.uint16)), value


def test_permute_bytes(shim: ctypes.CDLL) -> None:
    assert shim.shim_permute(0x33221100, 0x77665544, 0x6420) == 0x66442200
    assert shim.shim_permute(0x33221100, 0x77665544, 0x7531) == 0x77553311
