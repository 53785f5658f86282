"""A call's arguments against what the bundle's model takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vitc.bundle import Dim, TensorInfo
from vitc.errors import InputError
from vitc.lowering.cpu.engine import Array


def bind(
    inputs: Sequence[TensorInfo], dims: Mapping[str, Dim], arrays: Sequence[Any], named: Mapping[str, Any]
) -> dict[str, Array]:
    """The arrays by input name, in C order. InputError where they are not what the model takes."""
    values = _by_name(inputs, arrays, named)
    sizes: dict[str, tuple[int, str]] = {}
    return {info.name: _checked(info, dims, values[info.name], sizes) for info in inputs}


def _by_name(inputs: Sequence[TensorInfo], arrays: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Any]:
    takes = f"the model takes {len(inputs)}: {', '.join(describe(info) for info in inputs)}"
    names = [info.name for info in inputs]
    if len(arrays) > len(inputs):
        raise InputError(f"got {len(arrays)} arrays; {takes}")
    for name in named:
        if name not in names:
            raise InputError(f"got an array for {name!r}, which is no input; {takes}")
        if name in names[: len(arrays)]:
            raise InputError(f"got the input {name!r} twice, by position and by name; {takes}")
    values = {**dict(zip(names, arrays, strict=False)), **named}
    absent = [name for name in names if name not in values]
    if absent:
        raise InputError(f"got no array for {', '.join(map(repr, absent))}; {takes}")
    return values


def describe(info: TensorInfo) -> str:
    """`x float32 [batch, 3, 224, 224]`"""
    return f"{info.name} {info.dtype} [{', '.join(map(str, info.shape))}]"


def _checked(info: TensorInfo, dims: Mapping[str, Dim], value: Any, sizes: dict[str, tuple[int, str]]) -> Array:
    """`sizes`: each dynamic dimension's size in this call, and the input that gave it."""
    array = np.asarray(value)
    got = f"got {array.dtype} {list(array.shape)}"
    if array.dtype != np.dtype(info.dtype):
        raise InputError(
            f"input {info.name!r} must be {describe(info)}, {got}: convert it, with astype({info.dtype!r})"
        )
    if array.ndim != len(info.shape):
        raise InputError(f"input {info.name!r} must be {describe(info)}, of {len(info.shape)} dimensions; {got}")
    for axis, (size, wanted) in enumerate(zip(array.shape, info.shape, strict=True)):
        if isinstance(wanted, int):
            if size != wanted:
                raise InputError(
                    f"input {info.name!r} must be {describe(info)}; {got}: dimension {axis} is not {wanted}"
                )
            continue
        allowed = dims[wanted]
        if not allowed.min <= size <= allowed.max:
            raise InputError(
                f"input {info.name!r} must be {describe(info)} with {wanted} from {allowed.min} "
                f"to {allowed.max}; {got}: {wanted} is {size}"
            )
        before, source = sizes.setdefault(wanted, (size, info.name))
        if before != size:
            raise InputError(f"input {info.name!r} has {wanted} {size}, input {source!r} has {before}: they must agree")
    return np.ascontiguousarray(array)
