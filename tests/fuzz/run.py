"""The fuzzers, from a shell: `python tests/fuzz/run.py [KIND …] [--count N | --hours H] [--seed S] [--engine E]`.

`make fuzz HOURS=1` gives each kind its share of the time. With --table the counts are added to a file, out of which
benchmarks/fuzz.py prints benchmarks/results/fuzz.md. Exit code 1: something was found.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

from attacks import ATTACKS, ENGINE, warm_up
from harness import Counts, attack

from vitc.version import __version__


def main() -> int:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(ATTACKS)}; default: all")
    parser.add_argument("--count", type=int, help="attempts of each kind; default: 1000")
    parser.add_argument("--hours", type=float, help="instead of a count: the time of all kinds together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="one attempt, by its number")
    parser.add_argument("--engine", default="onnxruntime", help="for mutants that load; 'none' only reads them")
    parser.add_argument("--table", type=Path, help="a file of JSON lines that the counts are added to")
    options = parser.parse_args()
    unknown = sorted(set(options.kinds) - set(ATTACKS))
    if unknown:
        parser.error(f"unknown kinds {unknown}; known: {', '.join(ATTACKS)}")
    ENGINE[0] = None if options.engine == "none" else options.engine
    kinds = options.kinds or list(ATTACKS)
    seconds = 1e12 if options.hours is None else options.hours * 3600 / len(kinds)
    count = options.count or (1000 if options.hours is None else 1 << 62)
    first, count = (0, count) if options.only is None else (options.only, 1)
    bad = 0
    for kind in kinds:
        warm_up(kind)
        found = attack(kind, ATTACKS[kind], options.seed, count, seconds, first)
        bad += found.bad
        _report(found, options.table)
    return 1 if bad else 0


def _report(found: Counts, table: Path | None) -> None:
    print(
        f"{found.kind}: {found.tried} tried (seed {found.seed}, {found.seconds:.0f} s), {found.taken} taken, "
        f"{found.refused} refused; {found.crash} crashes, {found.hang} hangs, {found.memory} over 1 GB, {found.died} "
        f"deaths, {found.wrong} wrong accepts, {found.outside} files outside",
        flush=True,
    )
    for number, text in found.findings[:10]:
        print(f"  {number}: {text}", flush=True)
    if table is not None:
        engine = ENGINE[0] if found.kind in ("manifest", "contents") else None
        row = {key: value for key, value in asdict(found).items() if key != "findings"}
        with table.open("a") as file:
            file.write(json.dumps({**row, "engine": engine, "vitc": __version__}) + "\n")


if __name__ == "__main__":
    sys.exit(main())
