"""Imports torchvision beside a torch that its C library was not built for.

The common case is a CPU torch next to the CUDA build of torchvision: the library does not load, and the import ends
in `operator torchvision::nms does not exist`, timm's with it. Classification models need no such operator; with its
schema declared the import goes through, and a call of it would still fail.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_kept: list[object] = []  # a schema lives as long as its Library


def ensure_torchvision_imports() -> None:
    """Does nothing where torchvision is not installed or imports by itself. Other failures of the import are raised."""
    if find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        import torch

        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(name + _SCHEMA)
        _kept.append(library)
        importlib.import_module("torchvision")
