"""The cost model against arithmetic done by hand, and against what others measured."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from statistics import median
from types import ModuleType

import pytest

from vitc import targets
from vitc.cost import OpCost, predict
from vitc.errors import TargetError

ORIN = targets.load("orin")
MIB = 2**20


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    path = Path(__file__).parents[3] / "benchmarks" / "cost_model.py"
    spec = importlib.util.spec_from_file_location("bench_cost_model", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def gemm(**changes: object) -> OpCost:
    record = OpCost("fc", "blocks.0.fc", "gemm", "int8", 1e9, 1000.0, 1000.0, weight_bytes=100 * MIB)
    return replace(record, **changes)  # type: ignore[arg-type]


def pointwise(megabytes: float, **changes: object) -> OpCost:
    size = megabytes * MIB
    record = OpCost("add", "blocks.0", "elementwise", "fp16", 0.0, size, size)
    return replace(record, **changes)  # type: ignore[arg-type]


def test_vit_b_closed_forms(bench: ModuleType) -> None:
    """17.56 GMAC = 35.1 GFLOP, 86.6 M parameters; on AGX Orin 0.42 ms in INT8 and 0.85 ms in FP16 at best."""
    records = bench.analytic_vit(bench.VITS["vit_b"], dtype="int8")
    matrix = sum(op.flops for op in records if op.kind in ("gemm", "conv", "attention"))
    assert matrix == pytest.approx(35.1e9, rel=2e-3)
    assert sum(op.weight_bytes for op in records) == pytest.approx(86.6e6, rel=5e-3)
    assert predict(records, ORIN).floor_ms == pytest.approx(0.42, abs=0.005)
    assert predict(records, targets.load("orin-nano")).floor_ms == pytest.approx(1.05, abs=0.005)
    half = bench.analytic_vit(bench.VITS["vit_b"], dtype="fp16")
    assert predict(half, ORIN).floor_ms == pytest.approx(0.85, abs=0.005)


def test_closed_forms_of_other_sizes(bench: ModuleType) -> None:
    """GMAC from torchvision's weight tables (17.56, 55.48, 61.55) and the DeiT paper (4.6 for DeiT-S)."""
    for name, gmac in {"vit_s": 4.6, "vit_b": 17.56, "vit_b_384": 55.48, "vit_l": 61.55}.items():
        records = bench.analytic_vit(bench.VITS[name])
        matrix = sum(op.flops for op in records if op.kind in ("gemm", "conv", "attention"))
        assert matrix / 2e9 == pytest.approx(gmac, rel=0.005), name


def test_arithmetic_bound() -> None:
    (op,) = predict([gemm(flops=1e12, weight_bytes=0.0)], ORIN).ops
    assert op.bound == "compute"
    assert op.compute_ms == pytest.approx(1e3 / (85.2 * 0.715))
    assert op.ms == pytest.approx(0.007 + 1e3 / (85.2 * 0.715))


def test_weights_come_from_dram() -> None:
    (op,) = predict([gemm(flops=1.0)], ORIN).ops
    assert op.bound == "memory"
    assert op.memory_ms == pytest.approx(100 * MIB / (204.8e9 * 0.84) * 1e3)


def test_weights_of_a_model_that_fits_stay_in_l2() -> None:
    small = gemm(flops=1.0, weight_bytes=2 * MIB)
    from_l2 = (2 * MIB + 2000) / (32 * 16 * 1300.5e6) * 1e3
    assert predict([small], ORIN).ops[0].memory_ms == pytest.approx(from_l2)
    # A second such layer, and half of the 4 MiB no longer holds both.
    assert predict([small, small], ORIN).ops[0].memory_ms == pytest.approx(2 * MIB / (204.8e9 * 0.84) * 1e3)


def test_activations_leave_l2_when_they_do_not_fit() -> None:
    small, large = (predict([pointwise(size)], ORIN).ops[0] for size in (1.0, 2.0))
    assert small.memory_ms == pytest.approx(2 * MIB / (32 * 16 * 1300.5e6) * 1e3)
    assert large.memory_ms == pytest.approx(4 * MIB / (204.8e9 * 0.84) * 1e3)


def test_tiny_op_is_bound_by_its_launch() -> None:
    (op,) = predict([pointwise(0.001)], ORIN).ops
    assert op.bound == "launch"
    assert op.ms == pytest.approx(0.007, rel=0.01)


def test_fused_record_adds_only_what_it_reads_from_elsewhere() -> None:
    first = pointwise(8.0)
    fused = pointwise(8.0, name="gelu", fused_into_previous=True)
    alone, together = predict([first], ORIN), predict([first, fused], ORIN)
    assert together.ms == pytest.approx(alone.ms)
    assert together.kernels == 1
    assert together.ops[1].ms == 0.0
    assert together.ops[1].bound == "fused"
    residual = replace(fused, bytes_read=16.0 * MIB)  # the handed-over value and as much from memory
    assert predict([first, residual], ORIN).ops[0].memory_ms == pytest.approx(1.5 * alone.ops[0].memory_ms)
    narrow = replace(fused, bytes_written=2.0 * MIB)  # INT8 out: what the kernel writes is the last record's
    assert predict([first, narrow], ORIN).ops[0].memory_ms == pytest.approx(10 / 16 * alone.ops[0].memory_ms)


def test_fused_flag_on_the_first_record_has_nothing_to_join() -> None:
    assert predict([pointwise(1.0, fused_into_previous=True)], ORIN).kernels == 1


@pytest.mark.parametrize(
    ("shape", "filled"),
    [
        ((1, 16 * 256, 128, 64), 1.0),  # one large tile an SM
        ((16, 256, 128, 64), 1.0),  # the same as a batch
        ((1, 17 * 256, 128, 64), None),  # a 17th tile: never as good as 16
    ],
)
def test_tiles_fill_the_device(shape: tuple[int, int, int, int], filled: float | None) -> None:
    flops = 2.0 * shape[0] * shape[1] * shape[2] * shape[3]
    (op,) = predict([gemm(flops=flops, weight_bytes=0.0, shape=shape)], ORIN).ops
    ideal = flops / (85.2e12 * 0.715) * 1e3
    if filled is None:
        assert op.compute_ms > ideal
    else:
        assert op.compute_ms == pytest.approx(ideal / filled)


def test_single_row_wastes_the_tile() -> None:
    """The classifier at batch 1: one row of a 32-row tile at most, 1000 columns in 16 of 64."""
    flops = 2.0 * 1000 * 768
    (op,) = predict([gemm(flops=flops, weight_bytes=0.0, shape=(1, 1, 1000, 768))], ORIN).ops
    assert op.compute_ms >= 32 * 1024 / 1000 * flops / (85.2e12 * 0.715) * 1e3


def test_attention_is_counted_in_blocks_of_64_queries() -> None:
    """12 heads x 4 blocks on 16 SMs are three full waves; 197 of 256 rows are of use."""
    flops = 4.0 * 12 * 197 * 197 * 64
    record = OpCost("attn", "blocks.0.attn", "attention", "fp16", flops, 0.0, 0.0, shape=(12, 197, 197, 64))
    (op,) = predict([record], ORIN).ops
    assert op.compute_ms == pytest.approx(flops / (42.6e12 * 0.25) * 256 / 197 * 1e3)
    mixed = predict([replace(record, dtype="int8+fp16")], ORIN).ops[0]
    whole = predict([replace(record, dtype="int8")], ORIN).ops[0]
    assert mixed.compute_ms == pytest.approx((op.compute_ms + whole.compute_ms) / 2)


def test_fp32_is_tf32_where_there_is_tf32() -> None:
    record = gemm(flops=1e12, weight_bytes=0.0, dtype="fp32")
    a100, t4 = targets.load("a100"), targets.load("t4")
    assert predict([record], a100).ops[0].compute_ms == pytest.approx(1e3 / (156.0 * 0.78))
    assert predict([record], t4).ops[0].compute_ms == pytest.approx(1e3 / (8.1 * 0.78))


def test_cpu_needs_a_measurement() -> None:
    with pytest.raises(TargetError) as raised:
        predict([gemm()], targets.load("cpu"))
    message = str(raised.value)
    assert message.startswith("target 'cpu' has no int8_tops, so no time can be predicted")
    assert "target.with_measured(int8_tops=…, source='…')" in message


def test_cpu_with_a_measured_roofline(bench: ModuleType) -> None:
    """Two Zen 4 cores: 230 GFLOP/s FP32, 925 GOP/s INT8, 32 GB/s; OpenVINO took 200.6 and 72.0 ms there.

    The floors are independent; the utilisation of the cpu target comes from the same session.
    """
    cpu = targets.load("cpu").with_measured(
        int8_tops=0.925, fp32_tflops=0.230, memory_gbs=32.0, source="two cores of an EPYC"
    )
    for dtype, floor, measured in (("fp32", 153.0, 200.6), ("int8", 38.0, 72.0)):
        prediction = predict(bench.analytic_vit(bench.VITS["vit_b"], dtype=dtype, attention=dtype), cpu)
        assert prediction.floor_ms == pytest.approx(floor, rel=0.02)
        assert prediction.ms == pytest.approx(measured, rel=0.25)


def test_slower_power_mode_takes_longer(bench: ModuleType) -> None:
    records = bench.analytic_vit(bench.VITS["vit_b"], dtype="int8")
    times = [predict(records, ORIN.at_power_mode(mode)).ms for mode in ("MAXN", "50W", "30W", "15W")]
    assert times == sorted(times)
    assert times[0] == predict(records, ORIN).ms


@pytest.mark.parametrize("name", [name for name in targets.available() if name != "cpu"])
def test_time_is_above_the_floor_and_grows_with_batch(bench: ModuleType, name: str) -> None:
    target = targets.load(name)
    for dtype in ("int8", "fp16"):
        times = []
        for batch in (1, 8, 32):
            prediction = predict(bench.analytic_vit(bench.VITS["vit_b"], batch, dtype), target)
            assert prediction.ms > prediction.floor_ms
            times.append(prediction.ms)
        assert times == sorted(times)
        assert times[2] <= 32 * times[0]


def test_published_latencies(bench: ModuleType) -> None:
    """Over the figures that nothing was fitted to: half of them within 15 %, none off by more than 40 %."""
    rows = [row for row in bench._published() if not row.fitted]
    assert len(rows) == 73
    errors = [abs(bench.prediction_for(row).ms / row.ms - 1) for row in rows]
    assert median(errors) <= 0.15
    assert max(errors) <= 0.40


def test_table_in_the_docs_is_current(bench: ModuleType) -> None:
    docs = Path(__file__).parents[3] / "docs" / "cost-model.md"
    assert bench._table() in docs.read_text(encoding="utf-8"), "paste the output of benchmarks/cost_model.py"


def test_script_prints_table_and_blocks(bench: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main([]) == 0
    assert capsys.readouterr().out.strip() == bench._table()
    assert bench.main(["--blocks", "vit_s", "orin", "int8"]) == 0
    assert "blocks.11" in capsys.readouterr().out
    assert bench.main(["--blocks", "vit_x", "orin", "int8"]) == 2
    assert "usage" in capsys.readouterr().err
