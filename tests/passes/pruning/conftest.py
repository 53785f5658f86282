"""Puts this folder on the path: its tests share `small_vits`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
