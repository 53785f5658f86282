"""Where the CUDA toolkit's programs are."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

SYSTEM_TOOLKIT = Path("/usr/local/cuda")


def find_tool(name: str) -> str | None:
    """A program of the CUDA toolkit: CUDA_HOME, the path, /usr/local/cuda, or a CUDA package of this Python."""
    home = os.environ.get("CUDA_HOME")
    folders = [Path(home) / "bin"] if home else []
    on_path = shutil.which(name)
    candidates = [f / name for f in folders] + ([Path(on_path)] if on_path else [])
    candidates.append(SYSTEM_TOOLKIT / "bin" / name)
    packages = importlib.util.find_spec("nvidia")
    for root in packages.submodule_search_locations or () if packages else ():
        candidates += sorted(Path(root).glob(f"*/bin/{name}"))
    return next((str(c) for c in candidates if os.access(c, os.X_OK)), None)
