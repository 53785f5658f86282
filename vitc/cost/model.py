"""Records -> predicted time: a roofline with tiles.

A kernel is a record with the records fused into it. Its time is

    launch + max(arithmetic, DRAM traffic, L2 traffic)

Arithmetic: the share of the peak that the target's `utilisation` gives for the kind, reached only as far as
the tiles of the output fill the SMs: with few tiles (batch 1) the last wave, or the only one, leaves SMs
idle. DRAM: weights always, unless the whole model stays in L2; activations only where a kernel's own do not
fit there. The constants below are choices of this model, the figures of a device are the target's;
docs/cost-model.md shows both against published latencies.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import ceil

from vitc.cost.prediction import Bound, OpPrediction, Prediction
from vitc.cost.records import OpCost
from vitc.errors import TargetError
from vitc.targets import Target

# The share of L2 that survives until the next kernel reads it: weights stream through the same cache.
_RESIDENT = 0.5
# L2 serves 64 bytes per clock and SM (NVIDIA, Volta on); half of it is what streaming kernels see. On A100
# that is 4.9 TB/s, against 5120 bytes per clock = 7.2 TB/s in its white paper.
_L2_BYTES_PER_CLOCK_AND_SM = 32.0
# Rows x columns of output per thread block that matrix libraries offer; NVIDIA's Matrix Multiplication guide
# lists them from most to least efficient. A tile's operand traffic is proportional to 1/rows + 1/columns:
# efficiency falls with it, relative to the largest tile. The strength is fitted, with a100's figures, to nine
# public latencies (benchmarks/cost_model.py).
_TILES = ((256, 128), (128, 256), (128, 128), (128, 64), (64, 128), (64, 64), (32, 64))
_TILE_PENALTY = 15.0
# Query rows per thread block of a fused attention kernel.
_ATTENTION_ROWS = 64


def predict(records: Iterable[OpCost], target: Target) -> Prediction:
    """What the records, in order of execution, should take on `target`.

    Raises `TargetError` when the target lacks a figure that is needed: a cpu before `Target.with_measured`.
    """
    ops = list(records)
    weights_stay = sum(op.weight_bytes for op in ops) <= _RESIDENT * (target.l2_bytes or 0)
    predicted: list[OpPrediction] = []
    for kernel in _kernels(ops):
        predicted += _kernel_time(kernel, target, weights_stay)
    return Prediction(target=target.name, ops=tuple(predicted), floor_ms=_floor_ms(ops, target))


def _kernels(ops: Sequence[OpCost]) -> list[list[OpCost]]:
    kernels: list[list[OpCost]] = []
    for op in ops:
        if op.fused_into_previous and kernels:
            kernels[-1].append(op)
        else:
            kernels.append([op])
    return kernels


def _kernel_time(kernel: Sequence[OpCost], target: Target, weights_stay: bool) -> list[OpPrediction]:
    """The kernel's time stands at its first record, for those fused into it as well."""
    activations = _activation_bytes(kernel)
    weights = sum(op.weight_bytes for op in kernel)
    stays = activations <= _RESIDENT * (target.l2_bytes or 0)
    dram_bytes = (0.0 if weights_stay else weights) + (0.0 if stays else activations)
    compute_ms = sum(_compute_ms(op, target) for op in kernel)
    memory_ms = max(_dram_ms(dram_bytes, target, target.utilisation.memory), _l2_ms(activations + weights, target))
    launch_ms = target.launch_overhead_us * 1e-3
    bound: Bound = "compute" if compute_ms >= memory_ms else "memory"
    if launch_ms > max(compute_ms, memory_ms):
        bound = "launch"
    first = OpPrediction(kernel[0], compute_ms, memory_ms, launch_ms, bound)
    return [first, *(OpPrediction(op, 0.0, 0.0, 0.0, "fused") for op in kernel[1:])]


def _activation_bytes(kernel: Sequence[OpCost]) -> float:
    """What a kernel reads and writes: values handed from a record to the one fused into it never leave it."""
    total = kernel[0].bytes_read + kernel[-1].bytes_written
    for before, after in pairwise(kernel):
        total += max(0.0, after.bytes_read - before.bytes_written)
    return total


def _compute_ms(op: OpCost, target: Target) -> float:
    if not op.flops:
        return 0.0
    if op.kind in ("elementwise", "norm", "copy"):
        return op.flops / (_vector_rate(target) * 1e9)
    rate = _rate(op, target) * _utilisation(op, target)
    return op.flops / _filled(op, target) / (rate * 1e9)


def _filled(op: OpCost, target: Target) -> float:
    """The share of the device's arithmetic that the operation's best tiling keeps busy, in (0, 1]."""
    if op.shape is None or target.sm_count is None:
        return 1.0
    batch, rows, columns, _ = op.shape
    if op.kind == "attention":
        return _tiling(batch, rows, columns, (_ATTENTION_ROWS, columns), target.sm_count)
    return max(_tiling(batch, rows, columns, tile, target.sm_count) * _tile_efficiency(tile) for tile in _TILES)


def _tiling(batch: int, rows: int, columns: int, tile: tuple[int, int], sm_count: int) -> float:
    """Useful work over work paid for: padding in the tiles, idle SMs in the last wave."""
    tiles = batch * ceil(rows / tile[0]) * ceil(columns / tile[1])
    paid = ceil(tiles / sm_count) * sm_count * tile[0] * tile[1]
    return batch * rows * columns / paid


def _tile_efficiency(tile: tuple[int, int]) -> float:
    largest = _TILES[0]
    return (1 + _TILE_PENALTY * _traffic(largest)) / (1 + _TILE_PENALTY * _traffic(tile))


def _traffic(tile: tuple[int, int]) -> float:
    return 1 / tile[0] + 1 / tile[1]


def _rate(op: OpCost, target: Target) -> float:
    """Peak of the matrix units, 10¹² operations/s. FP32 is TF32 where there is TF32: TensorRT's default."""
    if op.dtype == "int8+fp16":
        return 2 / (1 / _known(target, "int8_tops") + 1 / _known(target, "fp16_tflops"))
    if op.dtype == "fp32" and target.tf32_tflops is not None:
        return target.tf32_tflops
    return _known(target, {"int8": "int8_tops", "fp16": "fp16_tflops", "fp32": "fp32_tflops"}[op.dtype])


def _utilisation(op: OpCost, target: Target) -> float:
    if op.kind == "attention":
        return target.utilisation.attention
    reached = target.utilisation
    return {"int8": reached.gemm_int8, "fp16": reached.gemm_fp16, "fp32": reached.gemm_fp32}.get(
        op.dtype, reached.gemm_fp16
    )


def _vector_rate(target: Target) -> float:
    return _known(target, "fp32_tflops")


def _dram_ms(bytes_moved: float, target: Target, share: float) -> float:
    return bytes_moved / (_known(target, "memory_gbs") * share * 1e6)


def _l2_ms(bytes_moved: float, target: Target) -> float:
    if target.sm_count is None or target.clock_mhz is None:
        return 0.0
    return bytes_moved / (_L2_BYTES_PER_CLOCK_AND_SM * target.sm_count * target.clock_mhz * 1e3)


def _floor_ms(ops: Sequence[OpCost], target: Target) -> float:
    """What none can beat: all matrix products at peak, or every weight read once at full bandwidth."""
    matrix = [op for op in ops if op.kind in ("gemm", "conv", "attention")]
    compute_ms = sum(op.flops / (_rate(op, target) * 1e9) for op in matrix)
    return max(compute_ms, _dram_ms(sum(op.weight_bytes for op in ops), target, share=1.0))


def _known(target: Target, figure: str) -> float:
    value: float | None = getattr(target, figure)
    if value is None:
        raise TargetError(
            f"target {target.name!r} has no {figure}, so no time can be predicted; measure it and give it "
            f"with target.with_measured({figure}=…, source='…'), or choose another precision"
        )
    return value
