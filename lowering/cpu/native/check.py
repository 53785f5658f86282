"""What a trunk must be for its kernels: every tensor as wide as all that make and read it say, every scale a number.

csrc/check.h holds the tape to the same, without names: a model that is wrong is refused here, with its tensor named.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from vitc.lowering.cpu.native.match import ACTIVATIONS, Attention, Block, Norm, Trunk, Unsuitable

#: Sums of u8 x s8 stay within 32 bits: 255 * 128 * 65536 < 2^31. Attention sums over tokens.
MOST_WIDTH = MOST_TOKENS = 1 << 16
MOST_HEAD_DIM = 1024

#: (width, whether FP32) of a tensor [tokens, width].
Form = tuple[int, bool]


def check(trunk: Trunk) -> None:
    """Raises Unsuitable where a tensor, a width or a scale is not what the kernels take."""
    forms: dict[str, Form] = {}
    for block in trunk.blocks:
        _check_numbers(block)
        for name, form in _reads(block):
            if name not in forms and name not in trunk.inputs:
                raise Unsuitable(f"{name!r} is read before it is made")
            if (known := forms.setdefault(name, form)) != form:
                raise Unsuitable(
                    f"{name!r} is {_described(known)}, and {block.output!r} needs {_described(form)} of it"
                )
        if block.output in forms:
            raise Unsuitable(f"{block.output!r} is made twice")
        forms[block.output] = _made(block)
    for name in (*trunk.inputs, *trunk.outputs):
        if name not in forms:
            raise Unsuitable(f"no block makes or reads {name!r}")


def _reads(block: Block) -> list[tuple[str, Form]]:
    if isinstance(block, Norm):
        return [(block.input, (block.weight.size, True))]
    if isinstance(block, Attention):
        return [(block.input, (3 * block.heads * block.head_dim, False))]
    k, n = block.weight.shape
    return [(block.input, (k, False)), *([] if block.residual is None else [(block.residual, (n, True))])]


def _made(block: Block) -> Form:
    if isinstance(block, Norm):
        return block.weight.size, False
    if isinstance(block, Attention):
        return block.heads * block.head_dim, False
    return block.weight.shape[1], block.step is None


def _described(form: Form) -> str:
    width, real = form
    return f"{'FP32' if real else 'INT8'} of width {width}"


def _check_numbers(block: Block) -> None:
    if isinstance(block, Attention):
        if not (1 <= block.heads <= MOST_WIDTH and 1 <= block.head_dim <= MOST_HEAD_DIM and block.head_dim % 16 == 0):
            raise Unsuitable(f"attention {block.output!r} has {block.heads} heads of {block.head_dim}")
        _check_width(block, 3 * block.heads * block.head_dim)
        _check_rows(block, block.heads, score_scale=block.score_scale, value_scale=block.value_scale)
    elif isinstance(block, Norm):
        _check_width(block, block.weight.size, 16)
        _check_rows(block, block.weight.size, weight=block.weight, bias=block.bias)
        if not (math.isfinite(block.epsilon) and block.epsilon >= 0):
            raise Unsuitable(f"the norm {block.output!r} has epsilon {block.epsilon}")
    else:
        if block.weight.ndim != 2 or block.weight.dtype != np.int8:
            raise Unsuitable(f"the weight of {block.output!r} is no INT8 matrix")
        k, n = block.weight.shape
        _check_width(block, k, 4)
        _check_width(block, n, 16)
        _check_rows(block, n, scale=block.scale, bias=block.bias)
        if block.activation not in (None, *ACTIVATIONS.values()):
            raise Unsuitable(f"{block.output!r} has the activation {block.activation!r}, for which there is no table")
        if block.residual is not None and block.step is not None:
            raise Unsuitable(f"{block.output!r} is quantized behind a residual")
    step = None if isinstance(block, Attention) else block.step
    # 1 / step must be a number too.
    if step is not None and not (math.isfinite(step) and step >= np.finfo(np.float32).tiny):
        raise Unsuitable(f"{block.output!r} is quantized with the step {step:g}; a step is a number above 0")


def _check_width(block: Block, width: int, unit: int = 1) -> None:
    if not 1 <= width <= MOST_WIDTH or width % unit:
        raise Unsuitable(f"{block.output!r} has a width of {width}; it takes multiples of {unit} to {MOST_WIDTH}")


def _check_rows(block: Block, size: int, **rows: npt.NDArray[np.float32]) -> None:
    for name, row in rows.items():
        if row.shape != (size,):
            raise Unsuitable(f"the {name} of {block.output!r} has the shape {list(row.shape)} where [{size}] is needed")
        if not np.isfinite(row).all():
            raise Unsuitable(f"the {name} of {block.output!r} has values that are NaN or infinite")
