"""Whose a file is: code is only loaded from files that nobody else could have written.

Who owns a file says little where it came out of an archive. So what vitc builds and later runs is sealed with a key
that never leaves the user's own folder: a record without the right seal was made elsewhere, or by somebody else.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

_KEY_BYTES = 32


def why_not_ours(path: Path) -> str | None:
    """Why others could have written the file at `path`, or put it there; None: they could not.

    It must be a plain file, and like its folder belong to this user or to root and be written by nobody else.
    """
    try:
        file, folder = path.lstat(), path.parent.stat()
    except OSError as error:
        return f"{path} can't be looked at ({error})"
    if not stat.S_ISREG(file.st_mode):
        return f"{path} is a link, or no plain file"
    if not hasattr(os, "getuid"):
        return None  # Windows: the folder's access list decides
    for found, name in ((file, path), (folder, path.parent)):
        if found.st_uid not in (0, os.getuid()):
            return f"{name} belongs to the user {found.st_uid}, this is {os.getuid()}"
        # In a folder with the sticky bit others can't replace what is not theirs.
        open_to_all = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not open_to_all:
            return f"{name} can be written by others: chmod go-w {name}"
    return None


def own_folder() -> Path:
    """VITC_CACHE, or vitc's part of the user's cache folder. Raises OSError where this user has none."""
    base = os.environ.get("VITC_CACHE")
    if base:
        return Path(base)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vitc"
    except RuntimeError as error:  # no HOME, and no entry in the user database
        raise OSError(f"this user has no home folder ({error}); set VITC_CACHE to a folder of your own") from error


def seal(data: bytes) -> str:
    """What only this user on this machine can say of `data`. Makes the key where there is none; raises OSError."""
    return hmac.new(_key(), data, hashlib.sha256).hexdigest()


def is_sealed(data: bytes, given: str) -> bool:
    """Whether `given` is this user's seal of `data`. Raises OSError where there can't be one."""
    return hmac.compare_digest(seal(data).encode(), given.encode())


def _key() -> bytes:
    path = own_folder() / "key"
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent) as file:  # of mode 0600
            file.write(secrets.token_bytes(_KEY_BYTES))
            file.flush()
            with suppress(FileExistsError):  # another process was faster; its key is the key
                os.link(file.name, path)
    if (reason := why_not_ours(path)) is not None:
        raise PermissionError(reason)
    key = path.read_bytes()
    if len(key) != _KEY_BYTES:
        raise OSError(f"{path} is damaged; remove it, and build the engines again")
    return key
