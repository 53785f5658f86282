"""INT8 keeps the accuracy of a ViT trained on real handwritten digits."""

from __future__ import annotations

import pytest

import vitc
from vitc.demo.digits import load_digits, train


@pytest.mark.slow
def test_int8_within_half_a_point_of_fp32() -> None:
    digits = load_digits()
    model = train(digits)
    before = digits.accuracy(model)
    assert before > 0.9
    for target in ("cpu", "orin"):
        compiled = vitc.compile(
            model,
            target,
            example_inputs=digits.train_images[:2],
            calibration=digits.train_images[:256],
            quantize="int8",
        )
        assert compiled.program.stage == "quantized"
        assert digits.accuracy(compiled) >= before - 0.005
