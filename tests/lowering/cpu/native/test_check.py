"""Trunks and tapes whose parts do not fit together are refused before a kernel sees them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from native_graphs import transformer

from vitc.errors import BuildError, InputError
from vitc.lowering.cpu.native import blocks as blocks_module
from vitc.lowering.cpu.native.blocks import Blocks
from vitc.lowering.cpu.native.check import check
from vitc.lowering.cpu.native.library import load
from vitc.lowering.cpu.native.match import Trunk, Unsuitable, match
from vitc.lowering.cpu.native.tape import layout

NORM, QKV, ATTENTION, OUT, _, UP, DOWN = range(7)
TRUNK = match(transformer(depth=1).graph)  # width 32, 2 heads of 16, hidden 64
FLOATS = np.ones(32, np.float32)


def changed(place: int, **changes: Any) -> Trunk:
    blocks = list(TRUNK.blocks)
    blocks[place] = replace(blocks[place], **changes)
    return replace(TRUNK, blocks=tuple(blocks))


def one_nan(size: int) -> np.ndarray:
    values = np.ones(size, np.float32)
    values[-1] = np.nan
    return values


@pytest.mark.parametrize(
    ("place", "changes", "message"),
    [
        (OUT, {"weight": np.ones((32, 64), np.int8), "scale": np.ones(64, np.float32), "bias": np.ones(64, np.float32)},
         "is FP32 of width 32, and '.*' needs FP32 of width 64 of it"),
        (DOWN, {"weight": np.ones((128, 32), np.int8)}, "is INT8 of width 64, and '.*' needs INT8 of width 128 of it"),
        (ATTENTION, {"heads": 3, "score_scale": np.ones(3, np.float32), "value_scale": np.ones(3, np.float32)},
         "is INT8 of width 96, and '.*' needs INT8 of width 144"),
        (ATTENTION, {"head_dim": 8}, "has 2 heads of 8"),
        (ATTENTION, {"heads": 0}, "has 0 heads of 16"),
        (ATTENTION, {"score_scale": FLOATS}, r"the score_scale of '.*' has the shape \[32\] where \[2\] is needed"),
        (NORM, {"bias": FLOATS[:16]}, r"the bias of '.*' has the shape \[16\] where \[32\] is needed"),
        (NORM, {"weight": one_nan(32)}, "the weight of '.*' has values that are NaN or infinite"),
        (NORM, {"epsilon": float("inf")}, "the norm '.*' has epsilon inf"),
        (NORM, {"step": 0.0}, "is quantized with the step 0; a step is a number above 0"),
        (QKV, {"step": float("nan")}, "is quantized with the step nan"),
        (UP, {"scale": FLOATS}, r"the scale of '.*' has the shape \[32\] where \[64\] is needed"),
        (UP, {"weight": np.ones((32, 65), np.int8)}, "has a width of 65; it takes multiples of 16 to 65536"),
        (UP, {"weight": np.ones((32, 64), np.int16)}, "is no INT8 matrix"),
        (UP, {"activation": "relu"}, "has the activation 'relu', for which there is no table"),
        (OUT, {"step": 0.1}, "is quantized behind a residual"),
        (OUT, {"residual": TRUNK.blocks[DOWN].output}, "is read before it is made"),
        (DOWN, {"residual": TRUNK.blocks[UP].output}, "is INT8 of width 64, and '.*' needs FP32 of width 32 of it"),
        (UP, {"output": TRUNK.blocks[QKV].output}, "is made twice"),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit(place: int, changes: dict[str, Any], message: str) -> None:
    check(TRUNK)
    with pytest.raises(Unsuitable, match=message):
        check(changed(place, **changes))


def test_ports_that_no_block_knows() -> None:
    for trunk in (replace(TRUNK, outputs=("nowhere",)), replace(TRUNK, inputs=(*TRUNK.inputs, "nowhere"))):
        with pytest.raises(Unsuitable, match="no block makes or reads 'nowhere'"):
            check(trunk)


def opened() -> Blocks:
    return Blocks(TRUNK, threads=2, portable=True)


def test_structs_and_constants_are_those_of_the_sources() -> None:
    assert [load(portable=True).vitc_layout(i) for i in range(len(layout()))] == layout()


@pytest.mark.parametrize(
    ("place", "part", "field", "value", "message"),
    [
        (OUT, "weights", "k", 16, "a linear step reads another width than its weights have"),
        (OUT, "weights", "n", 16, "a linear step writes another width than its weights have"),
        (OUT, "weights", "n", 17, "a linear step's sizes can't be packed"),
        (OUT, "weights", "bias", None, "a linear step lacks its weights"),
        (OUT, None, "out_width", 64, "a step's widths are not its buffers'"),
        (OUT, None, "output", 99, "a step names a buffer that is not there"),
        (OUT, None, "leave", 2, "a linear step leaves integers in a buffer of FP32"),
        (OUT, None, "leave", 7, "a linear step leaves what is not known"),
        (QKV, None, "leave", 0, "a linear step leaves FP32 in a buffer of integers"),
        (UP, None, "activation", None, "a linear step lacks its activation"),
        (UP, None, "inverse_step", float("nan"), "a linear step lacks its activation"),
        (NORM, "norm", "width", 16, "a norm's buffers differ from its rows"),
        (NORM, "norm", "gain", None, "a norm lacks its rows"),
        (ATTENTION, "attention", "heads", 1, "an attention's buffers differ from its heads"),
        (ATTENTION, "attention", "head_dim", -16, "an attention's heads can't be packed"),
        (ATTENTION, "attention", "value_scale", None, "an attention lacks its scales"),
        (ATTENTION, None, "kind", 3, "a copy's buffers differ"),
        (ATTENTION, None, "kind", 9, "a step is of a kind that is not known"),
    ],
)  # fmt: skip
def test_a_tape_that_does_not_fit_is_refused_by_the_kernels_too(
    place: int, part: str | None, field: str, value: Any, message: str
) -> None:
    blocks = opened()
    places = [i for i, step in enumerate(blocks._tape.steps) if step.kind != 3]  # copies are no block's
    step = blocks._tape.steps[places[place]]
    setattr(step if part is None else getattr(step, part), field, value)
    blocks.close()
    with pytest.raises(BuildError, match=f"does not open with 2 threads: {message}"):
        blocks._open()


def test_arrays_that_do_not_fit() -> None:
    blocks = opened()
    name = TRUNK.inputs[0]
    with pytest.raises(InputError, match=r"blocks take \[images, 1 to 65536 tokens, width\], got \(2, 32\)"):
        blocks.run({name: np.zeros((2, 32), np.float32)}, 1)
    with pytest.raises(InputError, match=r"got \(1, 65537, 32\)"):
        blocks.run({name: np.zeros((1, 65537, 32), np.float32)}, 1)
    for wrong in (np.zeros((1, 5, 16), np.float32), np.zeros((1, 5, 32), np.float64)):
        with pytest.raises(InputError, match=r"where float32 \[1, 5, 32\] is needed"):
            blocks.run({name: wrong}, 1)
    with pytest.raises(InputError, match="could not run 3 images: a number of images or tokens that can't be"):
        blocks.run({name: np.zeros((3, 5, 32), np.float32)}, 0)


def test_no_memory_for_the_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(shape: Any, dtype: Any) -> None:
        raise MemoryError

    blocks = opened()
    monkeypatch.setattr(blocks_module, "aligned", none_left)
    with pytest.raises(InputError, match="a batch of 2 needs a buffer of 1280 bytes, for which there is no memory"):
        blocks.run({TRUNK.inputs[0]: np.zeros((2, 5, 32), np.float32)}, 2)


def test_threads_that_are_not_to_be_had() -> None:
    with pytest.raises(BuildError, match="does not open with 4097 threads: a number of threads that can't be"):
        Blocks(TRUNK, threads=4097, portable=True)
