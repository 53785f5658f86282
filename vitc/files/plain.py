"""Opening files that a user names: plain ones only, for a pipe or a terminal would let the reader wait for ever."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_plain(path: Path | str, follow: bool = True) -> BinaryIO:
    """The file at `path`, open for reading. `follow`: links may lead to it.

    Raises OSError, at once, where there is none or it is a folder, a pipe, a device or a socket.
    """
    if "\0" in str(path):
        raise OSError(errno.EINVAL, "a path holds no NUL", str(path))
    # Not every system has these two; without them a pipe is still refused unless it takes the file's place just now.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    if not follow:
        flags |= getattr(os, "O_NOFOLLOW", 0)
    _demand_plain(os.stat(path, follow_symlinks=follow), path)
    descriptor = os.open(path, flags)
    try:
        _demand_plain(os.fstat(descriptor), path)
    except OSError:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def read_plain(path: Path | str, limit: int) -> bytes:
    """All of the plain file at `path`. Raises OSError as `open_plain` does, and for one of more than `limit` bytes."""
    with open_plain(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"has more than {limit} bytes", str(path))
    return data


def _demand_plain(found: os.stat_result, path: Path | str) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "is not a plain file", str(path))
