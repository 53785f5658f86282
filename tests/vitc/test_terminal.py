"""At the edge to a shell: one line and an exit code, on any terminal and any disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def shell(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    program = f"import sys\nfrom vitc.terminal import run_command\ndef command():\n    {code}\n    return 0\n"
    return subprocess.run(
        [sys.executable, "-c", f"{program}sys.exit(run_command('vitc', command))"], cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment}, capture_output=True, encoding="latin-1",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise OSError(28, 'No space left on device', 'x')", "vitc: [Errno 28] No space left on device: 'x'\n"),
        ("from vitc.errors import InputError; raise InputError('no')", "vitc: no\n"),
        ("open('/nowhere/x', 'w')", "vitc: [Errno 2] No such file or directory: '/nowhere/x'\n"),
        ("sys.exit(3)", ""),
    ],
)
def test_one_line_and_a_code(code: str, message: str) -> None:
    done = shell(code)
    assert (done.returncode, done.stderr) == (3 if "exit" in code else 1, message)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_that_cannot_show_it(encoding: str) -> None:
    done = shell("print('224 × 224 → 1…', '語')", PYTHONIOENCODING=encoding)
    times = "x" if encoding == "ascii" else "×"
    assert (done.returncode, done.stdout, done.stderr) == (0, f"224 {times} 224 -> 1... \\u8a9e\n", "")


def test_vitcs_own_faults_still_show_where_they_are() -> None:
    done = shell("raise KeyError('a')")
    assert "Traceback" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("module", ["vitc", "vitc.runtime"])
def test_a_full_disk_behind_stdout(module: str) -> None:
    arguments = ["-m", "vitc.cli", "targets"] if module == "vitc" else ["-m", "vitc.runtime", "--help"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=full,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert "Traceback" not in done.stderr
    if module == "vitc":
        assert (done.returncode, done.stderr) == (1, "vitc: [Errno 28] No space left on device\n")


def test_a_reader_that_has_enough() -> None:
    code = "[print('line', i) for i in range(100_000)]"
    program = f"from vitc.terminal import run_command; import sys\nsys.exit(run_command('vitc', lambda: len({code})))"
    done = subprocess.run(
        f"'{sys.executable}' -c \"$CODE\" | head -n 1", shell=True, capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "CODE": program},
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("line 0\n", "")
