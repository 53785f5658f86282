"""Saving, whole or not at all: at a path lies what was there or what was to come, whoever is killed, however full the
disk.

Everything is made in a folder beside the path, brought onto the disk (fsync), and put in its place in one step. The
folder is locked by whoever fills it and its name is vitc's own, so that the next one to save there can tell what a
killed process left behind, and clears it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: nothing is locked there, and nothing cleared
    fcntl = None  # type: ignore[assignment]

_OWN = r"\d{1,10}-[0-9a-f]{8}"
_AT_FDCWD, _RENAME_EXCHANGE, _RENAME_SWAP = -100, 2, 2


class OwnFolder:
    """A folder that belongs to this process: `path`. `remove` ends it; one that was left by a killed process is cleared
    when the next one with the same `start`, `end` and `parent` is made."""

    def __init__(self, parent: Path, start: str, end: str = "") -> None:
        _clear(parent, re.compile(re.escape(start) + _OWN + re.escape(end)))
        self._owner = os.getpid()
        while True:
            self.path = parent / f"{start}{self._owner}-{secrets.token_hex(4)}{end}"
            self.path.mkdir(mode=0o700)
            try:
                self._lock = _lock(self.path)
            except (BlockingIOError, FileNotFoundError):  # another one is just clearing it
                continue
            return

    def remove(self) -> None:
        """The folder and all in it are gone. Does nothing in a forked child, whose parent still needs it."""
        if os.getpid() != self._owner:
            return
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def scratch(name: str) -> OwnFolder:
    """A folder in the system's temporary one."""
    return OwnFolder(Path(tempfile.gettempdir()), f"{name}-")


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A folder on the file system of `path` to make in what `publish` then puts there. It is gone afterwards."""
    folder = OwnFolder(path.parent, f".{path.name}.", ".tmp")
    try:
        yield folder.path
    finally:
        folder.remove()


def publish(made: Path, path: Path) -> None:
    """Puts the file or folder `made` at `path`, in one step; what was there goes to `made`'s place.

    Raises OSError, with what was at `path` untouched, where the disk or the file system can't.
    """
    _to_disk(made)
    if path.is_dir() or (made.is_dir() and path.exists()):
        exchange(made, path)
    else:
        os.replace(made, path)
    _folder_to_disk(path.parent)


def write_file(path: Path, data: bytes) -> None:
    """`data` as the file at `path`, or what a link there leads to. Raises OSError, with the old one untouched."""
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        raise OSError(errno.EEXIST, "is there and is not a plain file", str(path))
    with beside(path) as work:
        made = work / "made"
        made.write_bytes(data)
        publish(made, path)


def exchange(one: Path, other: Path) -> None:
    """Two files or folders of one file system change places in one step.

    Raises OSError where the system or the file system can't: there is no second way in which a kill could not leave
    one of the places empty.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    a, b = os.fsencode(one), os.fsencode(other)
    if sys.platform == "darwin":
        done = libc.renamex_np(a, b, _RENAME_SWAP)
    elif hasattr(libc, "renameat2"):
        done = libc.renameat2(_AT_FDCWD, a, _AT_FDCWD, b, _RENAME_EXCHANGE)
    else:
        raise OSError(errno.ENOSYS, "this system can't put a folder in another's place in one step", str(other))
    if done == 0:
        return
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS):
        raise OSError(code, "this file system can't put a folder in another's place in one step", str(other))
    raise OSError(code, os.strerror(code), str(other))


def _to_disk(made: Path) -> None:
    """The innermost first, so that nothing on the disk names what is not there yet."""
    if not made.is_dir():
        with made.open("rb") as file:
            os.fsync(file.fileno())
        return
    for folder, _, files in os.walk(made, topdown=False):
        for name in files:
            _to_disk(Path(folder, name))
        _folder_to_disk(Path(folder))


def _folder_to_disk(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that know no fsync of a folder
            raise
    finally:
        os.close(descriptor)


def _lock(folder: Path) -> int | None:
    """A descriptor that holds the folder until it is closed, or its process dies; None where nothing can be locked.

    Raises BlockingIOError where another process holds it, FileNotFoundError where it is gone.
    """
    if fcntl is None:
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(descriptor), os.stat(folder)):
            raise FileNotFoundError(errno.ENOENT, "was cleared", str(folder))
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, (BlockingIOError, FileNotFoundError)):
            raise
        return None
    return descriptor


def _clear(parent: Path, form: re.Pattern[str]) -> None:
    """Removes the folders of dead processes: of this user, of vitc's own names, held by nobody."""
    if fcntl is None:
        return
    with suppress(OSError):  # a folder that can't be listed, or that another process clears at the same time
        names = os.listdir(parent)
        for name in filter(form.fullmatch, names):
            _clear_one(parent / name)


def _clear_one(folder: Path) -> None:
    with suppress(OSError):
        if not os.path.isdir(folder) or os.path.islink(folder) or folder.stat().st_uid != os.getuid():
            return
        lock = _lock(folder)
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)
