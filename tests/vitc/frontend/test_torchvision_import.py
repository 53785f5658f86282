"""torchvision imports, whichever torch it was built for; other failures are not hidden."""

from __future__ import annotations

import subprocess
import sys

import pytest

from vitc.frontend import torchvision_import

pytest.importorskip("torchvision")


def test_a_fresh_process_imports_torchvision_and_timm() -> None:
    code = (
        "from vitc.frontend.torchvision_import import ensure_torchvision_imports as ensure\n"
        "ensure(); ensure()\nimport torchvision, timm; print(hasattr(torchvision, 'ops'))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True)
    assert done.stdout.strip() == "True", done.stderr


def test_another_failure_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(name: str) -> None:
        raise RuntimeError(f"{name}: no space left")

    monkeypatch.setattr(torchvision_import.importlib, "import_module", fails)
    with pytest.raises(RuntimeError, match="no space left"):
        torchvision_import.ensure_torchvision_imports()
