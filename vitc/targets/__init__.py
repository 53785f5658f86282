"""What vitc knows about each device, as data: one TOML file a device, next to this module."""

from __future__ import annotations

from vitc.targets.loader import available, load
from vitc.targets.target import PowerMode, Target, Utilisation

__all__ = ["PowerMode", "Target", "Utilisation", "available", "load"]
