"""Paths inside a bundle: relative, plain, and below its root, whatever system they are read on."""

from __future__ import annotations

from pathlib import Path

from vitc.errors import BundleError

# Names Windows gives to devices: a file called so can't be written there.
_DEVICES = {
    "con",
    "prn",
    "aux",
    "nul",
    *(f"com{i}" for i in range(1, 10)),
    *(f"lpt{i}" for i in range(1, 10)),
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
        or any(ord(c) < 32 for c in path)
        or any(part in ("", ".", "..") or part.endswith((" ", ".")) for part in parts)
        or any(part.split(".")[0].lower() in _DEVICES for part in parts)
    ):
        raise BundleError(
            f"{source} names the file {path!r}; a bundle's files have relative paths inside it, with '/' "
            f"between the parts and none of them '..'"
        )
    return path


def under(root: Path, path: str, source: str) -> Path:
    """The file `path` of the bundle at `root`."""
    return root.joinpath(*checked(path, source).split("/"))
