"""For all tests: seeds, one thread, and a torchvision that imports beside a CPU torch."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

if find_spec("torch") is not None:
    import torch

    torch.set_num_threads(1)
    #: torchvision's wheel is a CUDA build whose C library does not load here; with these schemas declared it imports.
    #: The object must live as long as the schemas are needed.
    _TORCHVISION = torch.library.Library("torchvision", "FRAGMENT")
    for _name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, _name):
            _TORCHVISION.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test starts from the same random numbers."""
    if find_spec("torch") is not None:
        torch.manual_seed(0)
