"""A shared object that holds nothing but two names: its own, and that of the library it stands for.

The dynamic loader answers `dlopen(soname)` with any object already loaded under that soname, so loading such
a file makes a library reachable by a second name, without a compiler and without touching the library.
"""

from __future__ import annotations

import ctypes
import platform
import struct
import tempfile
from pathlib import Path

from vitc.errors import BuildError

# e_machine of the ELF header, by platform.machine(). Both are 64 bit, little endian.
MACHINES = {"x86_64": 62, "aarch64": 183}
FILE_HEADER, PROGRAM_HEADER, DYNAMIC_ENTRY, SYMBOL = 64, 56, 16, 24
PT_LOAD, PT_DYNAMIC = 1, 2
DT_NULL, DT_NEEDED, DT_HASH, DT_STRTAB, DT_SYMTAB, DT_STRSZ, DT_SYMENT, DT_SONAME = 0, 1, 4, 5, 6, 10, 11, 14
PAGE = 0x10000
"""Alignment of the one segment: the largest page size of the machines above."""


def load_alias(soname: str, needed: str) -> None:
    """Makes the loaded library `needed` answer to `soname` too, in this process.

    Raises `BuildError` on a machine whose ELF header is not known here, or where the loader refuses.
    """
    if platform.machine() not in MACHINES:
        raise BuildError(
            f"{soname} must stand for {needed}, which can be arranged on {' and '.join(MACHINES)} only, not "
            f"on {platform.machine()}: put a folder with a link {soname} -> {needed} on LD_LIBRARY_PATH"
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / soname
        path.write_bytes(alias_object(soname, needed, MACHINES[platform.machine()]))
        try:
            ctypes.CDLL(str(path))
        except OSError as error:
            raise BuildError(f"{soname} could not be made to stand for {needed}: {error}") from error


def alias_object(soname: str, needed: str, machine: int) -> bytes:
    """The bytes of an ELF shared object with DT_SONAME `soname` and DT_NEEDED `needed`, and no code.

    Layout: file header, two program headers (all of the file; the dynamic section), dynamic section, the null
    symbol, a hash table with one empty bucket, strings. See the System V ABI, chapters 4 and 5.
    """
    strings = b"\0" + soname.encode() + b"\0" + needed.encode() + b"\0"
    hashes = struct.pack("<4I", 1, 1, 0, 0)
    dynamic_at = FILE_HEADER + 2 * PROGRAM_HEADER
    dynamic_size = 8 * DYNAMIC_ENTRY
    symbols_at = dynamic_at + dynamic_size
    hashes_at = symbols_at + SYMBOL
    strings_at = hashes_at + len(hashes)
    size = strings_at + len(strings)
    entries = (
        (DT_NEEDED, 1 + len(soname) + 1),
        (DT_SONAME, 1),
        (DT_HASH, hashes_at),
        (DT_STRTAB, strings_at),
        (DT_STRSZ, len(strings)),
        (DT_SYMTAB, symbols_at),
        (DT_SYMENT, SYMBOL),
        (DT_NULL, 0),
    )
    identity = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)  # 64 bit, little endian, version 1
    header = identity + struct.pack(
        "<HHIQQQIHHHHHH", 3, machine, 1, 0, FILE_HEADER, 0, 0, FILE_HEADER, PROGRAM_HEADER, 2, 64, 0, 0
    )
    readable_writable = 6  # the loader relocates addresses of the dynamic section in place
    load = struct.pack("<IIQQQQQQ", PT_LOAD, readable_writable, 0, 0, 0, size, size, PAGE)
    dynamic = struct.pack("<IIQQQQQQ", PT_DYNAMIC, readable_writable, *[dynamic_at] * 3, dynamic_size, dynamic_size, 8)
    table = b"".join(struct.pack("<qQ", tag, value) for tag, value in entries)
    return header + load + dynamic + table + bytes(SYMBOL) + hashes + strings
