"""build.sh: nothing of a bundle is compiled before all of it is verified."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vitc.bundle import BundleContents, sign, write_bundle

ROOT = Path(__file__).parents[3]


def built(path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", path / "build.sh"], capture_output=True, text=True, cwd="/",
        env={**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT), **environment},
    )  # fmt: skip


def test_a_changed_source_is_not_compiled(contents: BundleContents, tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "b", contents).path
    (path / "plugin" / "CMakeLists.txt").write_text(f'file(TOUCH "{tmp_path}/ran")\n')
    done = built(path)
    assert done.returncode != 0
    assert "CMakeLists.txt" in done.stderr
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["b"]


def test_only_the_maker_s_bundle_is_built(contents: BundleContents, tmp_path: Path) -> None:
    minisign = pytest.importorskip("minisign")
    pair = minisign.KeyPair.generate()
    (tmp_path / "key").write_bytes(bytes(pair.secret_key))
    (tmp_path / "key.pub").write_bytes(bytes(pair.public_key))
    path = write_bundle(tmp_path / "b", contents).path
    done = built(path, VITC_KEY=str(tmp_path / "key.pub"))
    assert done.returncode != 0
    assert "is not signed" in done.stderr
    sign(path, tmp_path / "key")
    assert "signed with this key" in built(path, VITC_KEY=str(tmp_path / "key.pub")).stdout
