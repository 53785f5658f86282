"""The old place of vitc.frontend.torchvision_import, which the documentation of 0.1 named; goes with 0.3."""

from __future__ import annotations

from vitc.frontend.torchvision_import import ensure_torchvision_imports

__all__ = ["ensure_torchvision_imports"]
