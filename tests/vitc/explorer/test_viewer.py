"""The viewer's modules by node's own test runner, and what the page is put together from."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib import resources
from pathlib import Path

import pytest

from vitc.explorer.html import MODULES, viewer_script

TESTS = Path(__file__).parent / "viewer" / "viewer.test.mjs"


def _node() -> str:
    found = shutil.which("node")
    if found is None:
        pytest.skip("no node here: apt-get install nodejs (20 or newer)")
    return found


def test_the_modules_pass_their_own_tests() -> None:
    done = subprocess.run([_node(), "--test", str(TESTS)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert re.search(r"# pass [1-9]", done.stdout)


def test_the_script_is_one_that_a_browser_reads(tmp_path: Path) -> None:
    path = tmp_path / "viewer.mjs"
    path.write_text(viewer_script())
    done = subprocess.run([_node(), "--check", str(path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_every_module_is_in_the_script_and_no_name_twice() -> None:
    folder = resources.files("vitc.explorer").joinpath("viewer")
    assert {f"{name}.js" for name in MODULES} == {f.name for f in folder.iterdir() if f.name.endswith(".js")}
    script = viewer_script()
    names = re.findall(r"^(?:async )?(?:function|class|const|let) (\w+)", script, re.MULTILINE)
    assert sorted(names) == sorted(set(names))
    assert not re.search(r"^(?:import|export)\b", script, re.MULTILINE)


def test_the_viewer_makes_no_markup_of_text() -> None:
    """Elements are made by name, text goes in as text."""
    markup = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function"
    assert not re.search(markup, viewer_script())
