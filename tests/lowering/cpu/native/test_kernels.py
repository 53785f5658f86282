"""csrc/ against exact arithmetic: with VNNI where this processor has it, and in plain loops everywhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
from native_graphs import transformer
from native_reference import run_trunk

from vitc.lowering.cpu.native.blocks import Blocks
from vitc.lowering.cpu.native.library import unavailable
from vitc.lowering.cpu.native.match import Linear, Trunk, match
from vitc.lowering.cpu.native.tape import PANEL, activation_table, one_sided, pack

VARIANTS = [
    pytest.param(True, id="portable"),
    pytest.param(False, id="vnni", marks=pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))),
]


def run(trunk: Trunk, values: dict[str, np.ndarray], portable: bool) -> np.ndarray:
    """The trunk's one output; integers go in and come out as int8."""
    as_bytes = {
        k: v if v.dtype == np.float32 else (v.astype(np.int16) + 128).astype(np.uint8) for k, v in values.items()
    }
    blocks = Blocks(trunk, threads=2, portable=portable)
    out = blocks.run(as_bytes, chunk=2)[trunk.outputs[0]].copy()
    blocks.close()
    return out if out.dtype == np.float32 else (out.astype(np.int16) - 128).astype(np.int8)


@pytest.mark.parametrize("portable", VARIANTS)
@pytest.mark.parametrize(
    ("tokens", "heads", "dim", "hidden"),
    [
        (1, 1, 16, 16),
        (5, 2, 16, 64),
        (33, 1, 48, 80),
        (63, 2, 32, 64),
        (64, 3, 16, 112),
        (65, 2, 16, 64),
        (197, 1, 64, 128),
    ],
)
def test_blocks_are_what_exact_arithmetic_gives(portable: bool, tokens: int, heads: int, dim: int, hidden: int) -> None:
    trunk = match(transformer(tokens, heads, dim, hidden).graph)
    x = np.random.default_rng(1).normal(size=(3, tokens, heads * dim)).astype(np.float32)
    want = run_trunk(trunk, {trunk.inputs[0]: x}, finer=True)[trunk.outputs[0]]
    got = run(trunk, {trunk.inputs[0]: x}, portable)
    # FP32 against float64 rounds an integer the other way here and there; a wrong one would be wrong everywhere.
    assert np.linalg.norm(got - want) <= 2e-3 * np.linalg.norm(want - x)


@pytest.mark.parametrize("portable", VARIANTS)
@pytest.mark.parametrize("block", range(7))
def test_each_step_is_exact_but_for_ties(portable: bool, block: int) -> None:
    """One step at a time: integers differ by one at most, in one of 2000 places at most; reals by rounding."""
    trunk = match(transformer(29, 2, 32, 96, depth=1).graph)
    x = np.random.default_rng(2).normal(size=(2, 29, 64)).astype(np.float32)
    values = run_trunk(trunk, {trunk.inputs[0]: x})
    one = trunk.blocks[block]
    inputs = (one.input, one.residual) if isinstance(one, Linear) and one.residual else (one.input,)
    got = run(Trunk((one,), (), (), inputs, (one.output,)), {name: values[name] for name in inputs}, portable)
    want = values[one.output]
    if want.dtype == np.float32:
        np.testing.assert_allclose(got, want, atol=1e-5)
    else:
        difference = np.abs(got.astype(int) - want)
        assert difference.max() <= 1
        assert (difference > 0).mean() <= 1 / 2000


@pytest.mark.parametrize("portable", VARIANTS)
def test_sums_are_exact_at_the_ends_of_the_range(portable: bool) -> None:
    """-128 and 127 against weights of +-127, 3072 of them: nothing saturates, nothing rounds but the one FP32 at the
    end."""
    rng = np.random.default_rng(3)
    x = rng.choice([-128, 127], (1, 31, 3072)).astype(np.int8)
    weight = rng.choice([-127, 127], (3072, 48)).astype(np.int8)
    x[0, 0], weight[:, 0] = -128, 127
    one = Linear("x", "y", weight, np.full(48, 1 / 64, np.float32), np.zeros(48, np.float32), None, None, None)
    got = run(Trunk((one,), (), (), ("x",), ("y",)), {"x": x}, portable)
    np.testing.assert_array_equal(got, (x.astype(np.int64) @ weight.astype(np.int64)).astype(np.float32) / 64)


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh"])
def test_an_activation_table_is_close_to_the_function(name: str) -> None:
    table = activation_table(name)
    cubic = np.array(table.cubic)
    x = np.linspace(-12, 12, 100_001)
    s = np.minimum(np.abs(x) * table.segments_per_unit, table.last)
    i = s.astype(int)
    p = sum(cubic[power][i] * (s - i) ** power for power in range(4))
    if name == "gelu":
        want = np.array([t * 0.5 * (1 + math.erf(t / math.sqrt(2))) for t in x])
    else:
        want = x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    np.testing.assert_allclose(x / 2 + np.abs(x) * p, want, atol=1e-5)


@pytest.mark.parametrize("step", [0.001, 0.01, 0.1, 1.0])
def test_what_gelu_gives_is_rounded_no_coarser_than_in_the_file(step: float) -> None:
    factor, zero = one_sided(step)
    assert factor <= 1
    assert zero * factor * step >= min(0.17, 128 * step)  # GELU's least value
    assert (255 - zero) * factor * step >= 127 * step - factor * step  # the largest in the file, to a level


def test_weights_are_packed_in_panels() -> None:
    weight = np.arange(8 * 48, dtype=np.int64).astype(np.int8).reshape(8, 48)
    packed = pack(weight)
    assert packed.shape == (2, 2, PANEL, 4)
    assert packed[1, 1, 3, 2] == weight[4 + 2, PANEL + 3]
    assert not packed[1, :, 16:].any()
