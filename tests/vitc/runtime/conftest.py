"""A small bundle with a VitAttention in it."""

from __future__ import annotations

import numpy as np
import pytest
from small_models import WIDTH, block

from vitc.bundle import BundleContents, Dim, Golden, TensorInfo, Tolerance
from vitc.lowering.cpu import open_engine


@pytest.fixture
def contents() -> BundleContents:
    model = block()
    x = np.random.default_rng(0).normal(size=(2, 5, WIDTH)).astype(np.float32)
    # OpenVINO's answer is the golden one; the tests run ONNX Runtime, so the two check each other.
    y = open_engine(model, "openvino", threads=1).run({"x": x})["y"]
    return BundleContents(
        model=model,
        pipeline="tile-attention",
        target={"name": "cpu", "kind": "cpu"},
        inputs=(TensorInfo("x", "float32", ("batch", 5, WIDTH)),),
        outputs=(TensorInfo("y", "float32", ("batch", 5, WIDTH)),),
        structure={"kind": "tuple", "items": [{"kind": "leaf", "name": "y"}]},
        dims={"batch": Dim(1, 4)},
        tolerance=Tolerance(0.99999, 1e-4),
        golden=(Golden({"x": x}, {"y": y}),),
    )
