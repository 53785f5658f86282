"""Copying with a hash, in pieces: a bundle may be larger than the memory of the device that reads it."""

from __future__ import annotations

import hashlib
from typing import IO

from vitc.bundle.records import FileRecord
from vitc.errors import BundleError

_PIECE = 1 << 20


def copy_hashed(source: IO[bytes], sink: IO[bytes] | None, limit: int | None = None) -> FileRecord:
    """Copy `source` into `sink` (None: only read it), and say what was copied.

    Reads at most `limit` + 1 bytes: a file that is longer than its record says is never unpacked in full.
    """
    digest = hashlib.sha256()
    size = 0
    while True:
        piece = source.read(_PIECE if limit is None else min(_PIECE, limit + 1 - size))
        if not piece:
            return FileRecord(digest.hexdigest(), size)
        digest.update(piece)
        size += len(piece)
        if sink is not None:
            sink.write(piece)


def check_record(path: str, stated: FileRecord, found: FileRecord) -> None:
    """BundleError where the file found is not the one the manifest states."""
    if found.bytes < stated.bytes:
        raise BundleError(f"{path} is truncated: the manifest states {stated.bytes} bytes, it has {found.bytes}")
    if found.bytes > stated.bytes:
        raise BundleError(f"{path} is damaged: the manifest states {stated.bytes} bytes, it has more")
    if found.sha256 != stated.sha256:
        raise BundleError(f"{path} is damaged: the manifest states SHA-256 {stated.sha256}, it has {found.sha256}")
