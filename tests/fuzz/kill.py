"""Kills at any moment: `python tests/fuzz/kill.py [--kills N] [--seed S] [--table FILE] [SAVE …]`.

A child saves one state after the other over what is there; it is killed (SIGKILL) after a random time. Then a reader
must find a whole state, not older than the last one that was said to be saved; and when the next one has saved once,
nothing else lies beside it, nor in the temporary folder. Where tests/fuzz/faults.py aims at each step, this hits the
moments between.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from saves import SAVES, Save


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("saves", nargs="*", metavar="SAVE", help=f"of {', '.join(SAVES)}; default: all")
    parser.add_argument("--kills", type=int, default=100, help="of each")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--table", type=Path, help="a file of JSON lines that the counts are added to")
    options = parser.parse_args()
    bad = 0
    for name in options.saves or SAVES:
        began = time.monotonic()
        problems = killed(SAVES[name](), options.kills, random.Random(f"{options.seed}/{name}"))
        row = {"kind": f"kill: {name}", "seed": options.seed, "tried": options.kills, "wrong": len(problems)}
        row["seconds"] = time.monotonic() - began
        print(json.dumps({**row, "first": problems[:3]}), flush=True)
        bad += len(problems)
        if options.table is not None:
            with options.table.open("a") as file:
                file.write(json.dumps(row) + "\n")
    return 1 if bad else 0


def killed(save: Save, kills: int, rng: random.Random) -> list[str]:
    """What went wrong."""
    problems = []
    with tempfile.TemporaryDirectory() as base:
        place, scratch = Path(base, "place"), Path(base, "tmp")
        place.mkdir()
        scratch.mkdir()
        tempfile.tempdir = str(scratch)
        try:
            began = time.monotonic()
            save.write(place, "0")
            once = time.monotonic() - began
            saved = 0
            for kill in range(kills):
                said = _killed_child(save, place, saved, rng.uniform(0, 4 * once))
                try:
                    found = int(save.read(place))
                except Exception as error:
                    problems.append(f"kill {kill}: {type(error).__name__}: {error}")
                    found = saved
                if not max(saved, said) <= found <= said + 1:
                    problems.append(f"kill {kill}: {found} is there, {said} was saved")
                saved = max(found, said)
            save.write(place, str(saved + 1))
            left = sorted([*os.listdir(place), *os.listdir(scratch)])
            if left != [save.name]:
                problems.append(f"left over after the next save: {left[:5]}")
        finally:
            tempfile.tempdir = None
    return problems


def _killed_child(save: Save, place: Path, start: int, seconds: float) -> int:
    """The last state that the child said it had saved."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        number = start
        while True:
            number += 1
            save.write(place, str(number))
            os.write(write, f"{number}\n".encode())
    os.close(write)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(read) as pipe:
        said = pipe.read().split()
    return int(said[-1]) if said else start


if __name__ == "__main__":
    sys.exit(main())
