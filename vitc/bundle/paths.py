"""Paths inside a bundle: relative, plain, and below its root, whatever system they are read on."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import Path

from vitc.bundle import limits
from vitc.errors import BundleError

# Names Windows gives to devices: a file called so can't be written there.
_DEVICES = {
    "con",
    "conin$",
    "conout$",
    "prn",
    "aux",
    "nul",
    *(f"com{i}" for i in "0123456789¹²³"),
    *(f"lpt{i}" for i in "0123456789¹²³"),
}


def checked(path: str, source: str) -> str:
    """`path` itself when it is a plain relative path with `/` between its parts; BundleError when it is not.

    `source` says where the path was read, for the message.
    """
    parts = path.split("/")
    if (
        not path
        or path.startswith("/")
        or any(c in path for c in '\\:*?"<>|')
        or not path.isprintable()  # controls, halves of surrogates, what turns the direction of writing
        or any(part in ("", ".", "..") or part.endswith((" ", ".")) for part in parts)
        or any(part.split(".")[0].strip().lower() in _DEVICES for part in parts)
    ):
        raise BundleError(
            f"{source} names the file {_shown(path)}; a bundle's files have relative paths inside it, with '/' "
            f"between the parts and none of them '..'"
        )
    if len(path) > limits.PATH or any(len(part.encode()) > limits.PART for part in parts):
        raise BundleError(
            f"{source} names the file {_shown(path)}, of {len(path)} characters; a path in a bundle has at most "
            f"{limits.PATH}, each part of it {limits.PART} bytes"
        )
    return path


def check_distinct(paths: Iterable[str], source: str) -> None:
    """BundleError where two paths are one on some system (they differ in case or Unicode form only), or one of them
    is a file where another needs a folder."""
    seen: dict[str, str] = {}
    for path in paths:
        other = seen.setdefault(_folded(path), path)
        if other != path:
            raise BundleError(f"{source} names the files {other!r} and {path!r}, which are one file on some systems")
    for folded, path in seen.items():
        parts = folded.split("/")
        for i in range(1, len(parts)):
            other = seen.get("/".join(parts[:i]), "")
            if other:
                raise BundleError(f"{source} names the files {other!r} and {path!r}; one can't lie in the other")


def _folded(path: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFKC", path).casefold())


def under(root: Path, path: str, source: str) -> Path:
    """The file `path` of the bundle at `root`."""
    return root.joinpath(*checked(path, source).split("/"))


def _shown(path: str) -> str:
    return repr(path) if len(path) <= 200 else f"{path[:200]!r}…"
