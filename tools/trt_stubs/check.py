"""Runs mypy over vitc's TensorRT code with one version's stubs: `check.py STUBS`. Exits with mypy's status.

The code takes the TensorRT module as an argument, `trt: Any`, since there are two distributions of it. A copy
in which `trt` is the module itself is what mypy is given.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("engine.py", "network.py", "logger.py")
RTX_ONLY = ("capability.py",)
# The argument steps aside, a local of that name too, and the bases become ones that mypy can follow.
PLUGIN_BASES = ("trt.IPluginV3", "trt.IPluginV3OneCore", "trt.IPluginV3OneBuild", "trt.IPluginV3OneRuntime")
REPLACEMENTS = (
    (r"\btrt: (Any|ModuleType)\b", "_trt: Any"),
    (r"^(\s+)trt = ", r"\1_trt = "),
    (r"^(from __future__ import annotations\n)", r"\1import tensorrt as trt\n"),
    (r"class VitAttention\(\*bases\):", f"class VitAttention({', '.join(PLUGIN_BASES)}):"),
    (r"  # type: ignore\[misc\]", ""),
)


def main(stubs: Path) -> int:
    rtx = "tensorrt_rtx" in (stubs / "tensorrt" / "__init__.pyi").read_text(encoding="utf-8")
    names = SOURCES + RTX_ONLY if rtx else SOURCES
    sources = [ROOT / "lowering" / "tensorrt" / name for name in names] + [ROOT / "kernels" / "python_plugin.py"]
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "mypy.ini"
        config.write_text("[mypy]\n", encoding="utf-8")
        copies = [copy(source, Path(folder)) for source in sources]
        command = [sys.executable, "-m", "mypy", "--config-file", str(config), "--follow-imports", "silent"]
        command += ["--check-untyped-defs", "--cache-dir", str(stubs.parent / "mypy"), *map(str, copies)]
        environment = {**os.environ, "MYPYPATH": f"{stubs}{os.pathsep}{ROOT}"}
        return subprocess.run(command, env=environment, cwd=folder, check=False).returncode


def copy(source: Path, folder: Path) -> Path:
    text = source.read_text(encoding="utf-8")
    for pattern, replacement in REPLACEMENTS:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    path = folder / f"checked_{source.name}"
    path.write_text(text, encoding="utf-8")
    return path


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
