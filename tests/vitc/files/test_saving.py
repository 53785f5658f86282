"""Saving: whole or not at all, under a fault at each step, and nothing left by the dead."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vitc.files import saving

ROOT = Path(__file__).parents[3]


def test_a_file_and_a_link_to_it(tmp_path: Path) -> None:
    path, link = tmp_path / "a.json", tmp_path / "link.json"
    link.symlink_to(path)
    saving.write_file(path, b"one")
    saving.write_file(link, b"two")
    assert path.read_bytes() == b"two"
    assert link.is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["a.json", "link.json"]


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(FileExistsError, match="is there and is not a plain file"):
            saving.write_file(path, b"one")


def test_two_folders_change_places(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    saving.exchange(tmp_path / "a", tmp_path / "b")
    assert os.listdir(tmp_path / "a") == ["b"]
    with pytest.raises(FileNotFoundError):
        saving.exchange(tmp_path / "a", tmp_path / "nowhere")


def test_only_folders_of_the_dead_are_cleared(tmp_path: Path) -> None:
    code = "import sys, time; from pathlib import Path; from vitc.files.saving import beside\n"
    code += "with beside(Path(sys.argv[1])) as work: print(work, flush=True); time.sleep(60)"
    path = tmp_path / "b"
    owner = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert owner.stdout is not None
    left = Path(owner.stdout.readline().strip())
    others = [".b.old.tmp", ".b.1-00000000.tmp.bak", ".c.1-00000000.tmp"]
    for name in others:
        (tmp_path / name).mkdir()
    (tmp_path / ".b.1-00000000.tmp").touch()  # a file, and no folder
    with saving.beside(path):
        assert left.is_dir()  # its owner lives
    owner.kill()
    owner.wait()
    with saving.beside(path):
        assert not left.exists()
    assert sorted(os.listdir(tmp_path)) == sorted([*others, ".b.1-00000000.tmp"])


def test_a_forked_child_keeps_its_parents_folder(tmp_path: Path) -> None:
    folder = saving.OwnFolder(tmp_path, "vitc-")
    child = os.fork()
    if child == 0:
        folder.remove()
        os._exit(0)
    os.waitpid(child, 0)
    assert folder.path.is_dir()
    folder.remove()
    assert not folder.path.exists()


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("the shim needs Linux and a C compiler")
    made = tmp_path_factory.mktemp("shim") / "faults.so"
    source = ROOT / "tests" / "shared" / "fault_shim.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", made, source, "-ldl"], check=True)
    return made


@pytest.mark.parametrize(
    "save",
    [
        "search-journal",
        "plan",
        "state-file",
        pytest.param("bundle-folder", marks=pytest.mark.slow),
        pytest.param("bundle-file", marks=pytest.mark.slow),
        pytest.param("bundle-other-form", marks=pytest.mark.slow),
    ],
)
def test_one_fault_at_every_step(shim: Path, save: str) -> None:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "fuzz" / "faults.py", shim, save],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout, (done.stderr, time.monotonic() - began)
    row = json.loads(done.stdout)
    assert row["steps"] >= 5
    assert row["wrong"] == 0, row["first"]
