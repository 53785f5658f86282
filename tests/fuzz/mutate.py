"""Changes to bytes, texts and plain data that a random generator chooses."""

from __future__ import annotations

import random
from typing import Any

ODD = [
    None, True, False, 0, 1, -1, 2**31, 2**63, -(2**63), 10**19, 10**400, 0.5, 1e308, "", "a", "../x", "a\0b",
    "é" * 300, "\ud800", "x" * 5000, [], [1], {}, {"a": 1}, [[[[]]]], "model.onnx", "9" * 5000, "\x1b[2J", "con",
    "MODEL.ONNX",
]  # fmt: skip


def flipped(rng: random.Random, data: bytes) -> bytes:
    """One to eight bytes changed, cut, doubled, taken away, or put in."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
        at = rng.randrange(len(out)) if out else 0
        kind = rng.randrange(7)
        if kind <= 2 and out:
            out[at] ^= 1 << rng.randrange(8) if kind else rng.randrange(1, 256)
        elif kind == 3 and out:
            size = rng.choice((1, 2, 4, 8))
            out[at : at + size] = rng.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * size
        elif kind == 4:
            del out[at : at + rng.randrange(1, 64)]
        elif kind == 5:
            out[at:at] = rng.randbytes(rng.randrange(1, 16))
        elif kind == 6 and rng.random() < 0.3:
            del out[at:]
    return bytes(out)


def plain(rng: random.Random, tree: Any) -> Any:
    """A copy of plain data with one value somewhere changed, taken away, doubled, or nested."""
    paths = list(_paths(tree))
    path = rng.choice(paths)
    return _replaced(tree, path, rng)


def _paths(tree: Any, path: tuple[Any, ...] = ()) -> Any:
    yield path
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield from _paths(value, (*path, key))


def _replaced(tree: Any, path: tuple[Any, ...], rng: random.Random) -> Any:
    if not path:
        return _changed(tree, rng)
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    if len(path) == 1 and rng.random() < 0.2:
        del copy[path[0]]
        return copy
    if len(path) == 1 and isinstance(copy, dict) and rng.random() < 0.15:
        copy[str(rng.choice(ODD))] = copy.pop(path[0])
        return copy
    copy[path[0]] = _replaced(copy[path[0]], path[1:], rng)
    return copy


def _changed(value: Any, rng: random.Random) -> Any:
    kind = rng.randrange(6)
    if kind == 0 and isinstance(value, (int, float)) and not isinstance(value, bool):
        return rng.choice((-value, value + 1, value * 10**6, float(value) if abs(value) < 1e300 else 0, 0))
    if kind == 1 and isinstance(value, str):
        at = rng.randrange(len(value) + 1)
        return value[:at] + rng.choice(("", "\0", "/", "..", " ", "é", "\u202e", "A")) + value[at + rng.randrange(2) :]
    if kind == 2 and isinstance(value, list):
        return value * rng.choice((0, 2, 50))
    if kind == 3:
        for _ in range(rng.choice((1, 10, 70, 900))):
            value = [value] if rng.random() < 0.5 else {"a": value}
        return value
    return rng.choice(ODD)


_SIGNS = [
    "{",
    "}",
    "[",
    "]",
    ",",
    "=",
    '"',
    "'",
    "\\",
    " ",
    "\t",
    "\n",
    "\0",
    "é",
    "9",
    "-",
    ".",
    "e",
    "nan",
    "\ud800",
    "#",
]


def text(rng: random.Random, seeds: list[str]) -> str:
    """One of the texts, with pieces of the others and odd signs put in, cut or repeated."""
    out = rng.choice(seeds)
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(out) + 1)
        kind = rng.randrange(6)
        if kind == 0:
            out = out[:at] + rng.choice(_SIGNS) * rng.choice((1, 1, 1, 2, 50, 3000)) + out[at:]
        elif kind == 1:
            out = out[:at] + out[at + rng.randrange(1, 12) :]
        elif kind == 2:
            other = rng.choice(seeds)
            cut = rng.randrange(len(other) + 1)
            out = out[:at] + other[cut:] if rng.random() < 0.5 else out[:at] + other[:cut] + out[at:]
        elif kind == 3:
            out = out[:at] + out[max(0, at - rng.randrange(1, 20)) :]
        elif kind == 4:
            out = out[:at] + chr(rng.choice((rng.randrange(32, 127), rng.randrange(128, 0xD800)))) + out[at + 1 :]
        elif rng.random() < 0.2:
            out = out[:at]
    return out
