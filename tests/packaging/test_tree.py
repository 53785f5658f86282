"""The house: three top-level folders reached through symlinks, and one module object for each."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("folder", ["passes", "lowering", "kernels"])
def test_top_level_folder_is_reached_through_a_symlink(folder: str) -> None:
    link = ROOT / "vitc" / folder
    assert link.is_symlink()
    assert link.readlink() == Path("..") / folder
    assert link.resolve() == ROOT / folder


def test_every_package_folder_has_an_init() -> None:
    sources = [p for top in ("vitc", "passes", "lowering", "kernels") for p in (ROOT / top).rglob("*.py")]
    assert len(sources) > 50
    missing = sorted({str(p.parent.relative_to(ROOT)) for p in sources if not (p.parent / "__init__.py").exists()})
    assert missing == []


def test_runtime_and_descriptions_import_without_torch() -> None:
    code = (
        "import sys, vitc, vitc.runtime, vitc.bundle, vitc.targets, vitc.lowering.tensorrt, vitc.lowering.cpu,"
        " vitc.kernels\nassert 'torch' not in sys.modules, 'torch was imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
