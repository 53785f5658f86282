"""The rates of the CPU at hand, measured: a second's work, once a process.

They are what the engine that will run the model reaches on one large product, and what a copy reaches in memory, so the
target's `utilisation` is the share of those, not of a data sheet. Timed by CPU time over threads, so that other
processes on the machine do not count.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from vitc.lowering.cpu import open_engine, preferred
from vitc.targets import Target

# Rows, depth and columns of ViT-B's fc1 for four images: large enough to fill a few cores, small enough for 10 ms.
_ROWS, _DEPTH, _COLUMNS = 788, 768, 3072
_COPIED_BYTES = 2**26  # larger than a core's share of any L3
_SECONDS = 0.08
THREADS = os.cpu_count() or 1


def measured_here(target: Target) -> Target:
    """A cpu with this machine's rates in place of those it lacks: products in FP32 and INT8, memory bandwidth. Other
    targets have theirs and are returned as they are.

    Raises MissingDependencyError where no CPU engine is installed.
    """
    lacks = [
        name for name in ("fp32_tflops", "fp16_tflops", "int8_tops", "memory_gbs") if getattr(target, name) is None
    ]
    if target.kind != "cpu" or not lacks:
        return target
    fp32, int8, memory = _rates()
    # vitc widens FP16 for a CPU.
    rates: dict[str, Any] = {"fp32_tflops": fp32, "fp16_tflops": fp32, "int8_tops": int8, "memory_gbs": memory}
    return target.with_measured(
        **{name: rates[name] for name in lacks},
        source="measured on this machine, by this process: one product, and a copy (lowering/cpu/rates.py)",
    )


@cache
def _rates() -> tuple[float, float, float]:
    """10¹² operations/s in FP32 and INT8, and 10⁹ bytes/s."""
    operations = 2 * _ROWS * _DEPTH * _COLUMNS
    fp32 = operations / _product_seconds(int8=False) / 1e12
    int8 = operations / _product_seconds(int8=True) / 1e12
    source = np.ones(_COPIED_BYTES, np.int8)
    copy = np.empty_like(source)
    seconds = shortest(lambda: np.copyto(copy, source), threads=1)
    return fp32, int8, 2 * _COPIED_BYTES / seconds / 1e9


def _product_seconds(int8: bool) -> float:
    engine = open_engine(_product(int8), preferred(), threads=THREADS)
    feeds = {"x": np.random.default_rng(0).standard_normal((_ROWS, _DEPTH)).astype(np.float32)}
    try:
        return shortest(lambda: engine.run(feeds), THREADS)
    finally:
        engine.close()


def shortest(run: Callable[[], object], threads: int) -> float:
    """Seconds of CPU time for each of `threads`, the least of the runs that fit into `_SECONDS`, of three at least; the
    first is not counted."""
    run()
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - began < _SECONDS:
        started = time.process_time()
        run()
        times.append((time.process_time() - started) / threads)
    return min(times)


def _product(int8: bool) -> bytes:
    """x [rows, depth] times a constant, its rows summed up so that writing them costs nothing."""
    from onnx import helper, numpy_helper

    random = np.random.default_rng(0)
    weight = random.integers(-127, 128, (_DEPTH, _COLUMNS)).astype(np.int8)
    constants: dict[str, Any] = {"w": weight if int8 else weight.astype(np.float32), "axis": np.array([0], np.int64)}
    nodes, left, right = [], "x", "w"
    if int8:
        constants |= {"s": np.float32(0.03), "z": np.int8(0), "ws": np.full(_COLUMNS, 0.01, np.float32)}
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["left"]),
            helper.make_node("DequantizeLinear", ["w", "ws"], ["right"], axis=1),
        ]
        left, right = "left", "right"
    nodes.append(helper.make_node("MatMul", [left, right], ["product"]))
    nodes.append(helper.make_node("ReduceMax", ["product", "axis"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", 1, [_ROWS, _DEPTH])],
        [helper.make_tensor_value_info("y", 1, [1, _COLUMNS])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return bytes(model.SerializeToString())
