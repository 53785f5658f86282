"""A call's arguments against what the bundle's model takes."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vitc.bundle import Dim, TensorInfo
from vitc.errors import InputError, unknown
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
    array = as_array(info.name, value)
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


def as_array(name: str, value: Any) -> Array:
    """A NumPy array or a torch tensor, whatever it is tracked by or lies on, as an array. InputError where none is."""
    try:
        if type(value).__module__.split(".")[0] == "torch":
            if value.layout != sys.modules["torch"].strided or value.is_quantized:
                raise InputError(f"input {name!r} is a sparse or quantized tensor; give the dense one: .to_dense()")
            value = value.detach().cpu().numpy()
        array = np.asarray(value)
    # NumPy's and torch's refusals: bfloat16, a tensor without data, lists of different lengths.
    except (TypeError, ValueError, RuntimeError, NotImplementedError, AttributeError) as error:
        raise InputError(f"input {name!r} can't be an array: {error}; convert it first") from error
    if array.dtype.kind not in "fiub":
        raise InputError(f"input {name!r} holds {array.dtype}; the model takes numbers or booleans")
    return array


def check_finite(name: str, array: Array) -> None:
    """InputError, naming the image, where a floating-point input holds NaN or infinite values.

    An INT8 model would answer them with plausible numbers: its first rounding makes an integer of each.
    """
    if array.dtype.kind != "f" or (array.dtype == np.float32 and _sum_of_squares_is_finite(array)):
        return
    bad = ~np.isfinite(array)
    if not bad.any():
        return
    place = np.argwhere(bad)[0]
    image = f" of image {place[0]}" if array.ndim > 1 else ""
    raise InputError(
        f"input {name!r} holds {int(bad.sum())} NaN or infinite values, the first at {[int(i) for i in place]}{image}; "
        "where the model is to take them: check_inputs='none'"
    )


def _sum_of_squares_is_finite(array: Array) -> bool:
    """A product costs a fraction of a look at each value. True: all are finite. False: look at each."""
    flat = array.reshape(-1)
    return math.isfinite(float(np.dot(flat, flat)))


CHECK_INPUTS = ("finite", "none")


def checked_option(check_inputs: str) -> bool:
    """Whether inputs are to be checked for NaN. InputError for another word."""
    if check_inputs not in CHECK_INPUTS:
        raise InputError(unknown("value of check_inputs", str(check_inputs), CHECK_INPUTS))
    return check_inputs == "finite"
