"""What the fuzzers tried and found, as a table: `python benchmarks/fuzz.py results.jsonl > benchmarks/results/fuzz.md`.

The lines are made by
    python tests/fuzz/run.py --table results.jsonl --seed 15 --count N KIND …
    python tests/fuzz/kill.py --table results.jsonl --seed 15 --kills N
    python tests/fuzz/faults.py SHIM.so >> results.jsonl
It only adds up and prints. Rows of one kind, engine and seed that were made in several calls are one row.
"""

from __future__ import annotations

import json
import platform
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

COLUMNS = ("tried", "taken", "refused", "crash", "hang", "memory", "died", "wrong", "outside")
WHAT = {
    "archive": "bytes of a .vitc file changed; `read_bundle`",
    "forged-archive": "zip entries of odd names and kinds, hashes right; `read_bundle`",
    "folder": "files of a folder bundle changed, hashes old; `read_bundle`",
    "manifest": "values of a manifest changed, hashes right; load, self-check, one timed call",
    "contents": "arrays, table and ONNX file changed, hashes right; load, self-check, one timed call",
    "search-journal": "cut, flipped, other types; read back",
    "plan": "pruning plan: cut, flipped, other types; read back",
    "state-file": "calibration journal and distillation checkpoint: cut, flipped; read back",
    "pipeline": "pipeline texts; parsed, printed, parsed",
    "target": "target files; loaded, written, read back",
    "picture": "JPEG, PNG, GIF, BMP, PPM, TIFF, WebP, 8 to 32 bits; `ImageFolder`",
    "array": ".npy files; compared with what NumPy reads",
    "calibration": ".npy files; as calibration data",
}


HEAD = """# What the fuzzers tried, and found

Printed by `python benchmarks/fuzz.py`, which says what made the lines. Every attempt is made from its seed and number;
crashes are exceptions that are no `VitcError`. The file of counts is not kept.
"""
SAVING = """
Saving, under a fault at each call that changes the file system, and under kills at random moments. Wrong: no whole
state is there, or an older one than was said to be saved, or something is left over after the next save.
"""


def table(rows: list[dict[str, Any]]) -> str:
    sums: dict[tuple[str, str, int], dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for row in rows:
        counts = sums[row["kind"], row["engine"] or "", row["seed"]]
        for column in (*COLUMNS, "seconds"):
            counts[column] += row[column]
    lines = [
        "| kind | what | engine | seed | tried | taken | refused | crashes | hangs > 10 s | > 1 GB | deaths "
        "| wrong accepts | files outside |",
        "|" + "---|" * 13,
    ]
    for (kind, engine, seed), counts in sums.items():
        figures = " | ".join(f"{counts[column]:,.0f}" for column in COLUMNS)
        lines.append(f"| {kind} | {WHAT[kind]} | {engine} | {seed} | {figures} |")
    return "\n".join(lines)


def saves(kills: list[dict[str, Any]], faults: list[dict[str, Any]]) -> str:
    lines = [
        "| save | steps | faults: full, broken, killed | wrong after | random kills | wrong after |",
        "|" + "---|" * 6,
    ]
    for fault in faults:
        name = fault["save"]
        mine = [kill for kill in kills if kill["kind"] == f"kill: {name}"]
        tried, wrong = sum(kill["tried"] for kill in mine), sum(kill["wrong"] for kill in mine)
        lines.append(f"| {name} | {fault['steps']} | {fault['faults']} | {fault['wrong']} | {tried} | {wrong} |")
    return "\n".join(lines)


def main() -> None:
    rows = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
    fuzz = [row for row in rows if row.get("kind") in WHAT]
    kills = [row for row in rows if row.get("kind", "").startswith("kill: ")]
    faults = [row for row in rows if "save" in row]
    versions = sorted({row["vitc"] for row in fuzz})
    print(HEAD)
    print(
        f"vitc {', '.join(versions)}, Python {platform.python_version()}, {platform.system()}, {platform.machine()}.\n"
    )
    print(table(fuzz))
    print(SAVING)
    print(saves(kills, faults))


if __name__ == "__main__":
    main()
