"""Every example, and every Python block of the README, is executed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: CI may have a CPU torch beside the CUDA build of torchvision.
PREAMBLE = "from vitc.frontend.torchvision_import import ensure_torchvision_imports\n\nensure_torchvision_imports()"


def _run(*arguments: str, cwd: Path) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_custom_pass_from_a_script(tmp_path: Path) -> None:
    out = _run(str(ROOT / "examples" / "custom_pass.py"), cwd=tmp_path)
    assert "tanh-gelu                        +1 −1 ~0 nodes" in out
    difference = float(out.rsplit("largest difference: ", 1)[1])
    assert 1e-7 < difference < 1e-2, "the pass had no effect, or too much"


def test_custom_pass_from_the_command_line(tmp_path: Path) -> None:
    out = _run("-m", "vitc.cli", "passes", "--passes", str(ROOT / "examples" / "custom_pass.py"), cwd=tmp_path)
    assert "tanh-gelu\n    Replaces every exact GELU by the tanh form." in out


def test_pruning_criterion(tmp_path: Path) -> None:
    out = _run(str(ROOT / "examples" / "pruning_criterion.py"), cwd=tmp_path)
    assert "pruned by sparsity for cpu" in out
    assert "0.mlp.0:mlp" in out


def test_compile_and_check(tmp_path: Path) -> None:
    out = _run(str(ROOT / "examples" / "compile_and_check.py"), str(tmp_path), cwd=tmp_path)
    assert ": passed, 1 golden pair\n" in out
    assert float(re.search(r"new image: cosine ([0-9.]+)", out)[1]) > 0.99
    assert (tmp_path / "digits.vitc" / "manifest.json").is_file()


def test_read_dumps(tmp_path: Path) -> None:
    out = _run(str(ROOT / "examples" / "read_dumps.py"), str(tmp_path), cwd=tmp_path)
    script = (ROOT / "examples" / "read_dumps.py").read_text(encoding="utf-8")
    promised = re.findall(r"^    (\d\d-\S+ .*)$", script, flags=re.MULTILINE)
    assert len(promised) == 3
    assert all(f"{line}\n" in out for line in promised)
    assert "+%scaled_dot_product_attention_default" in out.split("fuse-attention:")[1]


def test_every_example_is_run() -> None:
    test = Path(__file__).read_text(encoding="utf-8")
    scripts = {path.name for path in (ROOT / "examples").glob("*.py")}
    assert {name for name in scripts if name not in test} == set()


def _blocks(path: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", path.read_text(), flags=re.MULTILINE | re.DOTALL)


PAGES = [
    "README.md",
    "docs/bundle.md",
    "docs/cpu.md",
    "docs/distillation.md",
    "docs/getting-started.md",
    "docs/pruning.md",
    "docs/quantization.md",
    "docs/targets.md",
    "docs/write-a-pass.md",
]


@pytest.mark.parametrize("page", PAGES)
def test_python_blocks_of_the_page_run(page: str, tmp_path: Path) -> None:
    blocks = _blocks(ROOT / page)
    assert blocks
    script = tmp_path / "page.py"
    script.write_text("\n".join([PREAMBLE, *blocks]))
    _run(str(script), cwd=tmp_path)
