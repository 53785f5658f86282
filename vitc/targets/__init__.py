"""What vitc knows about each device, as data: one TOML file for each device, next to this module.

target  the record of one device
loader  from TOML to a Target, by name or by path
"""

from __future__ import annotations

from vitc.targets.loader import available, load
from vitc.targets.target import PowerMode, Target, Utilisation

__all__ = ["PowerMode", "Target", "Utilisation", "available", "load"]
