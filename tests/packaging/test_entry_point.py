"""A package with an entry point of the group `vitc.passes` is found without being imported by anyone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("entry_point")
    source = shutil.copytree(ROOT / "examples" / "entry_point_pass", folder / "source")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--no-build-isolation"]
    done = subprocess.run([*pip, "--target", str(folder / "site"), str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "site"


def _python(site: Path, code: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-c", code], cwd="/", env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )


def test_known_by_its_entry_point(site: Path) -> None:
    done = _python(site, "import vitc; print(vitc.known_passes()['log-linears'].__module__)")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "vitc_log_linears"


def test_has_a_place_in_the_pipeline_text(site: Path) -> None:
    text = "log-linears{wide=64}"
    code = f"from vitc.pipeline import parse_pipeline, print_pipeline; print(print_pipeline(parse_pipeline({text!r})))"
    done = _python(site, code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == text


def test_unknown_without_the_package() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import vitc; print('log-linears' in vitc.known_passes())"],
        cwd="/", capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.strip() == "False", done.stderr
