"""The rates of this machine: there, plausible, and measured once."""

from __future__ import annotations

import numpy as np
import pytest

from vitc import targets
from vitc.cost import OpCost, predict
from vitc.errors import TargetError
from vitc.lowering.cpu import open_engine
from vitc.lowering.cpu.rates import _product, _rates, measured_here

GEMM = OpCost("fc1", "blocks.0", "gemm", "fp32", flops=1e9, bytes_read=1e6, bytes_written=1e6, weight_bytes=1e6)


def test_a_cpu_is_predicted_once_it_is_measured() -> None:
    cpu = targets.load("cpu")
    with pytest.raises(TargetError, match="with_measured"):
        predict([GEMM], cpu)
    here = measured_here(cpu)
    assert here.fp32_tflops
    assert here.memory_gbs
    assert predict([GEMM], here).ms > 1e9 / (here.fp32_tflops * 1e9)
    assert "this process" in here.sources["fp32_tflops"]
    given = cpu.with_measured(fp32_tflops=1.0, source="data sheet")
    assert measured_here(given).fp32_tflops == 1.0  # only what is missing is measured
    assert measured_here(targets.load("orin")) == targets.load("orin")
    before = _rates.cache_info().hits
    assert measured_here(cpu) == here
    assert _rates.cache_info().hits == before + 1


@pytest.mark.parametrize("int8", [False, True])
def test_what_is_measured_is_a_product(int8: bool) -> None:
    """A product with ones: the weights' column sums, whatever the precision."""
    engine = open_engine(_product(int8), "onnxruntime")
    (y,) = engine.run({"x": np.full((788, 768), 0.03, np.float32)}).values()
    weight = np.random.default_rng(0).integers(-127, 128, (768, 3072)).astype(np.float64)
    want = 0.03 * weight.sum(0) * (0.01 if int8 else 1.0)
    np.testing.assert_allclose(y[0], want, rtol=1e-3, atol=1e-2)
    engine.close()
