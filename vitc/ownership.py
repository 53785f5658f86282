"""Whose a file is: code is only loaded from files that nobody else could have written."""

from __future__ import annotations

import os
import stat
from pathlib import Path


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
