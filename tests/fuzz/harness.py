"""Runs an attack many times in forked children, and counts how each attempt ends.

An attempt is a function of a random generator and of a folder. It raises a VitcError (refused), returns (taken, and it
has looked that this is right), or raises `WrongAccept`. Attempt number i of a seed is always the same one: what was
found is found again by `python tests/fuzz/run.py KIND --seed S --only I`.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import struct
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree

from vitc.errors import VitcError

SECONDS = 10
MEMORY = 1 << 30
_CHUNK = 200

Attempt = Callable[[random.Random, Path], None]


class WrongAccept(Exception):
    """Taken, although it must not be, or taken as something else than it is."""


@dataclass
class Counts:
    """`findings`: (attempt, what happened) of everything that must not happen."""

    kind: str
    seed: int
    tried: int = 0
    taken: int = 0
    refused: int = 0
    crash: int = 0
    hang: int = 0
    memory: int = 0
    died: int = 0
    wrong: int = 0
    outside: int = 0
    seconds: float = 0.0
    findings: list[tuple[int, str]] = field(default_factory=list)

    @property
    def bad(self) -> int:
        return self.crash + self.hang + self.memory + self.died + self.wrong + self.outside


def attack(
    kind: str, attempt: Attempt, seed: int, count: int = 1 << 62, seconds: float = 1e12, first: int = 0
) -> Counts:
    """`count` attempts, or as many as there is time for."""
    counts, began, number, last = Counts(kind, seed), time.monotonic(), first, first + count
    while number < last and time.monotonic() - began < seconds:
        with tempfile.TemporaryDirectory(prefix="fuzz-") as base:
            number = _chunk(counts, attempt, Path(base), number, min(last, number + _CHUNK))
    counts.seconds = time.monotonic() - began
    return counts


def _chunk(counts: Counts, attempt: Attempt, base: Path, number: int, end: int) -> int:
    """Attempts in one child, until the end or until it dies of one. Returns the number to go on with."""
    work, scratch = base / "outer" / "work", base / "tmp"
    work.mkdir(parents=True)
    scratch.mkdir()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        tempfile.tempdir = str(scratch)
        os.chdir(work)
        _child(attempt, counts.seed, work, number, end, write)
    os.close(write)
    reports = _reports(read)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    for verdict, text in reports:
        _count(counts, number, verdict, text)
        number += 1
    if status < 0:
        verdict = "hang" if -status == signal.SIGALRM else "died"
        _count(counts, number, verdict, f"{signal.Signals(-status).name} ends the process")
        number += 1
    left = [str(p.relative_to(base)) for place in (base, base / "outer", scratch) for p in place.iterdir()]
    foreign = sorted(set(left) - {"outer", "tmp", "outer/work"})
    # What a killed attempt leaves, the next run clears: only the others must leave nothing.
    if foreign and status == 0:
        _count(counts, number - 1, "outside", f"left {foreign[:5]}")
        counts.tried -= 1
    return number


def _count(counts: Counts, number: int, verdict: str, text: str) -> None:
    counts.tried += 1
    setattr(counts, verdict, getattr(counts, verdict) + 1)
    if verdict not in ("taken", "refused"):
        counts.findings.append((number, f"{verdict}: {text}"))


def _reports(descriptor: int) -> list[tuple[str, str]]:
    with os.fdopen(descriptor, "rb") as pipe:
        data, found = pipe.read(), []
    while data:
        (size,) = struct.unpack_from("<I", data)
        verdict, _, text = data[4 : 4 + size].decode("utf-8", "replace").partition(":")
        found.append((verdict, text))
        data = data[4 + size :]
    return found


def _child(attempt: Attempt, seed: int, work: Path, number: int, end: int, write: int) -> None:
    # SIGALRM's own action ends the process, also where it hangs in C.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        for i in range(number, end):
            signal.alarm(SECONDS)
            verdict = _verdict(attempt, seed, i, work)
            signal.alarm(0)
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) << 10
            if grown > MEMORY and verdict.partition(":")[0] in ("taken", "refused"):
                verdict = f"memory:{grown >> 20} MB"
            data = verdict.encode("utf-8", "replace")
            os.write(write, struct.pack("<I", len(data)) + data)
            if grown > MEMORY:
                break  # the peak never falls: a new process goes on
            for entry in work.iterdir():
                rmtree(entry, ignore_errors=True) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def _verdict(attempt: Attempt, seed: int, number: int, work: Path) -> str:
    try:
        attempt(random.Random(f"{seed}/{number}"), work)
    except VitcError:
        return "refused"
    except WrongAccept as error:
        return f"wrong:{error}"
    except BaseException as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "/fuzz/" not in f.filename]
        place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
        return f"crash:{type(error).__name__} at {place}: {str(error)[:200]}"
    return "taken"
