"""Reading NumPy's .npy files: nothing of a file is believed before it is checked, and nothing is unpickled."""

from __future__ import annotations

import ast
import math
import re
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from vitc.files.plain import open_plain

Array = npt.NDArray[np.generic]

_MAGIC = b"\x93NUMPY"
_MAX_HEADER = 10_000  # NumPy's own
_MAX_RANK = 32  # NumPy's own, before 2.0
_DTYPE = re.compile(r"[<>|=][biufc][0-9]{1,2}")


def read_npy(path: Path | str) -> Array:
    """The array in the file at `path`.

    Raises OSError where it can't be read or is no plain file, ValueError where it is not an .npy file of numbers, whole
    and with nothing behind them.
    """
    with open_plain(path) as file:
        return parse_npy(file)


def parse_npy(file: BinaryIO) -> Array:
    """The array in `file`, from where it stands to its end. Raises ValueError as `read_npy` does."""
    dtype, fortran, shape = _header(file)
    start = file.tell()
    size, stated = file.seek(0, 2) - start, math.prod(shape) * dtype.itemsize
    file.seek(start)
    if size != stated:
        raise ValueError(f"its header states {stated} bytes of {dtype} {list(shape)}, it has {size}")
    data = bytearray(stated)
    if file.readinto(data) != stated:  # type: ignore[attr-defined]
        raise ValueError(f"it became shorter than {stated} bytes while it was read")
    array: Array = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
    return array


def _header(file: BinaryIO) -> tuple[np.dtype[Any], bool, tuple[int, ...]]:
    start = file.read(8)
    if start[:6] != _MAGIC or start[6:] not in (b"\1\0", b"\2\0", b"\3\0"):
        raise ValueError("it does not begin as an .npy file does")
    width = 2 if start[6] == 1 else 4
    length = int.from_bytes(file.read(width), "little")
    if length > _MAX_HEADER:
        raise ValueError(f"its header has {length} bytes, at most {_MAX_HEADER} are read")
    try:
        header = ast.literal_eval(file.read(length).decode("utf-8" if start[6] == 3 else "latin-1").strip(" \n"))
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:  # all that its docs name
        raise ValueError("its header can't be read") from error
    if not isinstance(header, dict) or set(header) != {"descr", "fortran_order", "shape"}:
        raise ValueError("its header does not state descr, fortran_order and shape")
    return _dtype(header["descr"]), _order(header["fortran_order"]), _shape(header["shape"])


def _dtype(stated: object) -> np.dtype[Any]:
    if not isinstance(stated, str) or not _DTYPE.fullmatch(stated):
        raise ValueError(f"its elements are {_shown(stated)}; vitc reads numbers and bools")
    try:
        return np.dtype(stated)
    except TypeError as error:
        raise ValueError(f"its elements are {stated!r}, which NumPy does not know") from error


def _order(stated: object) -> bool:
    if not isinstance(stated, bool):
        raise ValueError(f"its fortran_order is {_shown(stated)}")
    return stated


def _shape(stated: object) -> tuple[int, ...]:
    sizes = stated if isinstance(stated, tuple) and len(stated) <= _MAX_RANK else (None,)
    if not all(type(size) is int and 0 <= size < 1 << 62 for size in sizes):
        raise ValueError(f"its shape is {_shown(stated)}")
    return sizes


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
