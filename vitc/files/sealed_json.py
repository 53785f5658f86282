"""JSON files that a later run believes: replaced at once, with their own SHA-256 in them.

The hash finds what was damaged or edited in part; it says nothing of who wrote the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitc.files.plain import read_plain
from vitc.files.saving import write_file

#: A journal or a plan has some kilobytes to some megabytes.
MAX_BYTES = 64 << 20
_SEAL = "sha256"


def write(path: Path, body: Mapping[str, Any]) -> None:
    """Raises OSError, with the old file untouched."""
    text = json.dumps({**body, _SEAL: _digest(body)}, indent=1)
    write_file(path, f"{text}\n".encode())


def read(path: Path) -> dict[str, Any]:
    """The object in the file, for `unseal`: its version may be looked at before.

    Raises OSError where the file can't be read, ValueError where it is no JSON object.
    """
    try:
        body = json.loads(read_plain(path, MAX_BYTES).decode("utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    if not isinstance(body, dict):
        raise ValueError(f"it holds a JSON {type(body).__name__}, not an object")
    return body


def unseal(body: Mapping[str, Any]) -> dict[str, Any]:
    """What was written. Raises ValueError where the contents are not those that the seal was made for."""
    rest = {key: value for key, value in body.items() if key != _SEAL}
    stated = body.get(_SEAL)
    if stated is None:
        raise ValueError("it states no SHA-256")
    try:
        found = _digest(rest)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    if stated != found:
        raise ValueError(f"it states the SHA-256 {str(stated)[:80]!r}, its contents have {found!r}")
    return rest


def _digest(body: Mapping[str, Any]) -> str:
    # As the file will give it back: a tuple as a list, a number as a key as text.
    plain = json.loads(json.dumps(body))
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
