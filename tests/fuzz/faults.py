"""One fault at every step of every save: `python tests/fuzz/faults.py SHIM.so [SAVE …]`.

The shim is built by `gcc -shared -fPIC -o SHIM.so tests/shared/fault_shim.c -ldl`; the script runs itself under it. At
each call that changes the file system the save fails once with ENOSPC, once with EIO, and once is killed; each time in
a forked child. After each: the old state or the new one is there, whole; the next save leaves nothing else behind. One
JSON line for each save.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

FAULTS = {"full": errno.ENOSPC, "broken": errno.EIO, "killed": -1}


def main(arguments: list[str]) -> int:
    shim, *names = arguments
    if os.environ.get("LD_PRELOAD") != shim:
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "LD_PRELOAD": shim})
    from saves import SAVES

    found = [_injected(ctypes.CDLL(shim), name) for name in names or SAVES]
    return 1 if any(row["wrong"] for row in found) else 0


def _injected(shim: ctypes.CDLL, name: str) -> dict[str, object]:
    from saves import SAVES

    save, wrong, faults = SAVES[name](), [], 0
    with tempfile.TemporaryDirectory() as base:
        tempfile.tempdir = str(Path(base, "tmp"))
        Path(tempfile.tempdir).mkdir()
        pristine, place = Path(base, "pristine"), Path(base, "place")
        pristine.mkdir()
        save.write(pristine, "old")
        for kind, error in FAULTS.items():
            step = 0
            while True:
                step += 1
                shutil.rmtree(place, ignore_errors=True)
                shutil.copytree(pristine, place)
                struck, status = _attempt(shim, save, place, step, error)
                if not struck:
                    break
                faults += 1
                problem = _problem(save, place, status)
                if problem:
                    wrong.append(f"{kind} at step {step}: {problem}")
        tempfile.tempdir = None
    row = {"save": name, "steps": step - 1, "faults": faults, "wrong": len(wrong), "first": wrong[:3]}
    print(json.dumps(row), flush=True)
    return row


def _attempt(shim: ctypes.CDLL, save: object, place: Path, step: int, error: int) -> tuple[bool, int]:
    """(whether the step was reached, the child's status): 0 saved, 3 refused, 4 another exception, -9 killed."""
    from vitc.errors import VitcError

    child = os.fork()
    if child == 0:
        code = 4
        try:
            shim.vitc_faults(step, error)
            with contextlib.suppress(VitcError, OSError):
                code = 3
                save.write(place, "new")  # type: ignore[attr-defined]
                code = 0
        except BaseException:
            code = 4
        finally:
            reached = shim.vitc_faults(0, 0) >= step
            os._exit(code + (10 if reached else 0))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status < 0 or status >= 10, status if status < 0 else status % 10


def _problem(save: object, place: Path, status: int) -> str | None:
    try:
        found = save.read(place)  # type: ignore[attr-defined]
        if found not in ("old", "new") or (status == 0 and found != "new"):
            return f"status {status}, but {found!r} is there"
        if status == 4:
            return "an exception that is neither OSError nor VitcError"
        save.write(place, "next")  # type: ignore[attr-defined]
        if save.read(place) != "next":  # type: ignore[attr-defined]
            return "the next save does not take"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    left = [*os.listdir(place), *os.listdir(tempfile.gettempdir())]
    return None if left == [save.name] else f"left behind: {left}"  # type: ignore[attr-defined]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
