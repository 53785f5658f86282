"""The CUDA kernel's own source, played on the CPU, against the NumPy reference of the same arithmetic.

INT8 with pv="int8" must be equal bit for bit: its sums are integers and its FP32 steps have one order. Where the
tensor core sums FP16 products the result must lie within the derived bound of exact attention. The machine itself
must find what it claims to find: faults are planted by editing a copy of the kernel.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vitc.errors import BuildError, InternalError, MissingDependencyError
from vitc.kernels import error_model, harness, reference
from vitc.kernels.fields import AttentionFields
from vitc.kernels.harness import Harness, HarnessFault
from vitc.kernels.variants import HEAD_DIMS, Tile, Variant, variant_of

TILE = Tile(64, 64, 4)
SMALL = Tile(32, 32, 2)
WIDE = Tile(64, 64, 2)
"""Two groups of 16 rows in a warp."""

TOKENS = (1, 16, 63, 64, 65, 197, 257, 577)
INT8 = AttentionFields(
    layout="packed",
    num_heads=1,
    head_dim=64,
    scale=0.125,
    has_bias=0,
    tile_q=64,
    tile_k=64,
    pv="int8",
    q_scale=0.02,
    k_scale=0.025,
    v_scale=0.03,
    out_scale=0.004,
)
INT8_HALF_PV = dataclasses.replace(INT8, pv="fp16")
HALF = dataclasses.replace(INT8, pv="fp16", q_scale=0.0, k_scale=0.0, v_scale=0.0)
KINDS = {"int8": INT8, "int8-pv-fp16": INT8_HALF_PV, "fp16": HALF}


def with_tile(fields: AttentionFields, tile: Tile) -> AttentionFields:
    return dataclasses.replace(fields, tile_q=tile.query_rows, tile_k=tile.key_rows)


def as_half_out(fields: AttentionFields) -> AttentionFields:
    return dataclasses.replace(fields, out_scale=0.0)


@pytest.fixture(scope="session")
def base_harness() -> Harness:
    """D = 64: every kind of arithmetic and output, with and without a bias."""
    nodes = [dataclasses.replace(f, out_scale=o) for f in KINDS.values() for o in (0.0, 0.004)]
    nodes += [dataclasses.replace(f, has_bias=1) for f in nodes[1::2]]
    return Harness([variant_of(f, TILE) for f in nodes])


def draw(fields: AttentionFields, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=shape)
    if fields.int8_in:
        return np.clip(np.rint(x * 40), -128, 127).astype(np.int8)
    return x.astype(np.float16)


def qkv(fields: AttentionFields, batch: int, tokens: int, seed: int = 0) -> np.ndarray:
    return draw(fields, (batch, tokens, 3 * fields.num_heads * fields.head_dim), seed)


def check(machine: Harness, fields: AttentionFields, inputs: list[np.ndarray], tile: Tile = TILE) -> np.ndarray:
    """Plays the kernel and holds it to the reference (INT8) or to the derived bound; no bank conflicts either way."""
    played = machine.run(fields, inputs, tile)
    assert played.bank_conflicts == 0
    if fields.int8_in and fields.pv == "int8":
        np.testing.assert_array_equal(played.out, reference.attention(fields, inputs))
    else:
        error = np.abs(played.out.astype(np.float64) - error_model.exact(fields, inputs))
        assert (error <= error_model.bound(fields, inputs)).all()
    return played.out


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("kind", KINDS)
def test_token_counts(base_harness: Harness, kind: str, tokens: int) -> None:
    check(base_harness, KINDS[kind], [qkv(KINDS[kind], 1, tokens)])
    if tokens <= 65:
        check(base_harness, as_half_out(KINDS[kind]), [qkv(KINDS[kind], 1, tokens)])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_1025_tokens(base_harness: Harness, kind: str) -> None:
    check(base_harness, KINDS[kind], [qkv(KINDS[kind], 1, 1025)])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("batch", "heads"), [(1, 3), (3, 1)])
def test_batch_and_heads(base_harness: Harness, kind: str, batch: int, heads: int) -> None:
    fields = dataclasses.replace(KINDS[kind], num_heads=heads)
    check(base_harness, fields, [qkv(fields, batch, 65)])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", ["bnhd", "bhnd"])
def test_separate_tensors_and_other_numbers_of_keys(base_harness: Harness, kind: str, layout: str) -> None:
    fields = dataclasses.replace(KINDS[kind], layout=layout, num_heads=2)
    shapes = {"bnhd": ((2, 17, 128), (2, 70, 128)), "bhnd": ((2, 2, 17, 64), (2, 2, 70, 64))}[layout]
    inputs = [draw(fields, shapes[min(i, 1)], seed=i) for i in range(3)]
    check(base_harness, fields, inputs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize(("windows", "heads"), [(1, 2), (3, 1)])
def test_bias_and_windows(base_harness: Harness, kind: str, dtype: type, windows: int, heads: int) -> None:
    fields = dataclasses.replace(KINDS[kind], has_bias=1, num_heads=2)
    bias = np.random.default_rng(1).normal(size=(windows, heads, 49, 49)).astype(dtype)
    bias[0, 0, 3] = -np.inf  # a whole row is masked: the kernel gives zeros
    bias[0, 0, 4, :-1] = -np.inf
    inputs = [qkv(fields, 3, 49), bias]
    played = base_harness.run(fields, inputs, TILE)
    assert (played.out[0, 3, :64] == 0).all()
    finite = np.maximum(bias, dtype(-60000.0))
    finite[0, 0, 3] = 0
    check(base_harness, fields, [inputs[0], finite])
    if kind == "int8":
        np.testing.assert_array_equal(played.out, reference.attention(fields, inputs))


CAUSAL = [(n, n) for n in (1, 2, 31, 33, 64, 65, 130, 197)] + [(5, 70), (70, 5), (130, 64)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("queries", "keys"), CAUSAL)
def test_causal(base_harness: Harness, kind: str, queries: int, keys: int) -> None:
    """Tiles above the diagonal are not taken, those on it are masked by position."""
    fields = dataclasses.replace(KINDS[kind], causal=1, layout="bnhd")
    check(base_harness, fields, [draw(fields, (1, n, 64), seed=i) for i, n in enumerate((queries, keys, keys))])


@pytest.mark.parametrize("tile", [SMALL, Tile(64, 32, 4), Tile(32, 64, 2)])
@pytest.mark.parametrize("has_bias", [0, 1])
def test_causal_tiles(tile: Tile, has_bias: int) -> None:
    """Tiles of keys shorter and longer than those of queries: some rows of a tile may see none of its keys."""
    fields = with_tile(dataclasses.replace(INT8, causal=1, has_bias=has_bias), tile)
    machine = Harness([variant_of(fields, tile), variant_of(as_half_out(dataclasses.replace(fields, pv="fp16")), tile)])
    bias = [np.random.default_rng(1).normal(size=(1, 1, 130, 130)).astype(np.float32)] * has_bias
    check(machine, fields, [qkv(fields, 1, 130), *bias], tile)
    check(machine, as_half_out(dataclasses.replace(fields, pv="fp16")), [qkv(fields, 1, 130), *bias], tile)


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_head_dims(head_dim: int) -> None:
    nodes = [with_tile(dataclasses.replace(f, head_dim=head_dim, num_heads=3), SMALL) for f in KINDS.values()]
    nodes = [*nodes[:1], *(as_half_out(f) for f in nodes)]
    machine = Harness([variant_of(f, SMALL) for f in nodes])
    for fields in nodes:
        check(machine, fields, [qkv(fields, 1, 65)], SMALL)


@pytest.mark.parametrize("tile", [WIDE, Tile(16, 128, 1), Tile(64, 32, 4)], ids=str)
def test_tiles(tile: Tile) -> None:
    nodes = [with_tile(f, tile) for f in KINDS.values()]
    machine = Harness([variant_of(f, tile) for f in nodes])
    for fields in nodes:
        check(machine, fields, [qkv(fields, 1, 150)], tile)


def test_turing_gives_the_same_with_narrow_products_and_plain_loads() -> None:
    nodes = [
        with_tile(dataclasses.replace(f, head_dim=d, num_heads=2), SMALL) for f in KINDS.values() for d in (64, 72)
    ]
    turing = Harness([variant_of(f, SMALL) for f in nodes], arch=750)
    for fields in nodes:
        check(turing, fields, [qkv(fields, 1, 65)], SMALL)


@pytest.mark.parametrize("pv", ["int8", "fp16"])
@pytest.mark.parametrize("has_bias", [0, 1])
def test_scales_by_head(base_harness: Harness, pv: str, has_bias: int) -> None:
    """As three calls of one head each, which have the products as their scales."""
    factors = np.array([[0.25, 1.0, 2.5], [0.5, 3.0, 1.0], [0.75, 1.0, 1.25]], np.float32)
    fields = dataclasses.replace(
        INT8, pv=pv, num_heads=3, has_bias=has_bias, head_scales=tuple(factors.ravel().tolist())
    )
    x = qkv(fields, 2, 65)
    bias = [np.random.default_rng(1).normal(size=(1, 1, 65, 65)).astype(np.float32)] * has_bias
    out = check(base_harness, fields, [x, *bias])
    for head in range(3):
        scales = [s * float(f) for s, f in zip((0.02, 0.025, 0.03), factors[:, head], strict=True)]
        one = dataclasses.replace(
            fields, num_heads=1, head_scales=(1.0,), q_scale=scales[0], k_scale=scales[1], v_scale=scales[2]
        )
        part = np.ascontiguousarray(x.reshape(2, 65, 3, 3, 64)[:, :, :, head]).reshape(2, 65, 192)
        alone = base_harness.run(one, [part, *bias], TILE).out
        # The product of two factors is rounded to FP32 once or twice: a last place of the exponent, so a step of INT8.
        assert np.abs(out[..., 64 * head : 64 * (head + 1)].astype(int) - alone.astype(int)).max() <= 1


EXTREMES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "all zero": np.zeros_like,
    "all -128": lambda x: np.full_like(x, -128),
    "all 127": lambda x: np.full_like(x, 127),
    "-128 against 127": lambda x: np.where(np.arange(x.shape[1])[:, None] % 2, np.int8(-128), np.int8(127)),
    "some rows zero": lambda x: np.where(np.arange(x.shape[1])[:, None] % 3, x, np.int8(0)),
    "one key stands out": lambda x: np.where(np.arange(x.shape[1])[:, None] == 40, np.int8(127), x // 16),
}


@pytest.mark.parametrize("pv", ["int8", "fp16"])
@pytest.mark.parametrize("case", EXTREMES)
def test_extreme_integers(base_harness: Harness, pv: str, case: str) -> None:
    fields = dataclasses.replace(INT8, pv=pv)
    x = np.broadcast_to(EXTREMES[case](qkv(fields, 1, 65)), (1, 65, 192)).astype(np.int8)
    check(base_harness, fields, [x])


@pytest.mark.parametrize("pv", ["int8", "fp16"])
@pytest.mark.parametrize("scale", [1e-38, 1e-20, 1e-3, 1e3, 1e20])
def test_huge_and_tiny_scales(base_harness: Harness, pv: str, scale: float) -> None:
    fields = dataclasses.replace(INT8, pv=pv, q_scale=scale)
    check(base_harness, fields, [qkv(fields, 1, 65)])


def test_saturated_output(base_harness: Harness) -> None:
    fields = dataclasses.replace(INT8, out_scale=1e-4)
    out = check(base_harness, fields, [qkv(fields, 1, 65)])
    assert {-128, 127} <= set(out.ravel().tolist())


# ---- the machine finds what it says it finds ----

PLANTED = {
    "a race with the next tile's loads": (
        "shared_tile.cuh",
        "    sync_block();",
        "",
        "race: |deadlock|reads byte",
    ),
    "copies that nobody waits for": (
        "shared_tile.cuh",
        "        copy_async_wait();",
        "",
        "an asynchronous copy into it has not been waited for",
    ),
    "a warp that reads its output too early": ("attention.cuh", "        sync_warp();", "", "race: "),
    "rows beyond the last token": (
        "tiles.cuh",
        "rows = minimum(rows, limit - 1 - first",
        "rows = minimum(rows, limit - first",
        "bytes of global memory outside of every buffer",
    ),
    "output rows beyond the last token": (
        "attention.cuh",
        "if (query < p.queries) {",
        "if (query <= p.queries) {",
        "writes 16 bytes of global memory outside",
    ),
    "a stage too many": (
        "attention.cuh",
        "return stage + Config::kKeyBytes;",
        "return stage + Config::kKeyBytes + Config::kStageBytes;",
        "of shared memory, which has",
    ),
    "a missing lane": (
        "attention.cuh",
        "peak = maximum(peak, shuffle_xor(peak, 1));",
        "if (lane != 5) peak = maximum(peak, shuffle_xor(peak, 1));",
        "deadlock|the warp has parted",
    ),
    "rows that nobody loads": (
        "tiles.cuh",
        "constexpr int kItems = kTileRows / kRowsOfItem;",
        "constexpr int kItems = kTileRows / kRowsOfItem - 1;",
        "which nothing has written",
    ),
}


def plant(folder: Path, file: str, text: str, instead: str) -> Path:
    """A copy of the kernel's sources with one change."""
    copy = folder / "cuda"
    shutil.copytree(harness.CUDA_SOURCES, copy)
    source = (copy / file).read_text(encoding="utf-8")
    assert source.count(text) == 1, f"{file} has {text!r} {source.count(text)} times"
    (copy / file).write_text(source.replace(text, instead), encoding="utf-8")
    return copy


@pytest.mark.parametrize("case", PLANTED)
def test_planted_faults_are_found(tmp_path: Path, case: str) -> None:
    file, text, instead, message = PLANTED[case]
    machine = Harness([variant_of(INT8, SMALL)], cuda_sources=plant(tmp_path, file, text, instead))
    fields = with_tile(INT8, SMALL)
    with pytest.raises(HarnessFault, match=message):
        machine.run(fields, [qkv(fields, 1, 97)], SMALL)


def test_a_planted_bank_conflict_is_counted(tmp_path: Path) -> None:
    changed = plant(tmp_path, "shared_tile.cuh", "(chunk) ^ row_bits", "(chunk) ^ (row_bits & 0u)")
    fields = with_tile(INT8, SMALL)
    played = Harness([variant_of(INT8, SMALL)], cuda_sources=changed).run(fields, [qkv(fields, 1, 33)], SMALL)
    assert played.bank_conflicts > 0
    np.testing.assert_array_equal(played.out, reference.attention(fields, [qkv(fields, 1, 33)]))


def test_a_variant_that_was_not_built(base_harness: Harness) -> None:
    with pytest.raises(InternalError, match="built without the variant d32_int8_pv-int8_int8_64x64x4"):
        base_harness.run(dataclasses.replace(INT8, head_dim=32), [np.zeros((1, 4, 96), np.int8)], TILE)


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(MissingDependencyError, match="looked for no-such-compiler: install one"):
        harness.host_compiler()


def test_a_source_that_does_not_compile(tmp_path: Path) -> None:
    changed = plant(tmp_path, "attention.cuh", "VITC_DEVICE void run() {", "VITC_DEVICE void run() { nonsense;")
    with pytest.raises(BuildError, match="nonsense"):
        Harness([variant_of(INT8, SMALL)], cuda_sources=changed, cache=tmp_path / "cache")


def test_the_static_assertions_speak(tmp_path: Path) -> None:
    bad = dataclasses.replace(variant_of(INT8, SMALL), tile=Tile(40, 32, 2))
    with pytest.raises(BuildError, match="each warp takes whole groups of 16 query rows"):
        Harness([bad], cache=tmp_path)
    long = Variant(64, "int8", "int8", "int8", False, Tile(64, 160, 4))
    with pytest.raises(BuildError, match=r"P\.V leaves the exact range of FP32"):
        Harness([long], cache=tmp_path)
