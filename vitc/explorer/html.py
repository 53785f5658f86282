"""One file: page, style, viewer and data. Opens from disk, asks nothing of the network, runs nothing but the viewer.

The data is JSON, deflated, in base64, so no name of a model can end the element it stands in; the page's content
security policy lets the viewer's own script run and no other.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import zlib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from vitc.errors import InputError
from vitc.explorer.document import SCHEMA, to_json

#: The viewer's modules, in the order in which they need one another.
MODULES = ("model", "geometry", "colors", "scene", "plots", "panels", "search", "page")
_IMPORT = re.compile(r"^import\s[^;]*;\n?", re.MULTILINE)
_EXPORT = re.compile(r"^export\s+(?=(?:async\s+)?(?:function|class|const|let)\b)", re.MULTILINE)
_PART = r'<script type="application/octet-stream" id="vitc-{name}"[^>]*>([A-Za-z0-9+/=]*)</script>'


def page(data: Mapping[str, Any], run: Mapping[str, Any], summary: str) -> str:
    """The whole file. `summary`: what is shown without JavaScript, and read by who opens the file as text."""
    script, style = viewer_script(), _file("style.css")
    text = to_json(data)
    parts = {
        "title": html.escape(str(data["title"])),
        "policy": f"default-src 'none'; script-src '{_sha(script)}'; style-src '{_sha(style)}'; img-src data: blob:",
        "style": style,
        "summary": html.escape(summary),
        "script": script,
        "data": _packed(text),
        "digest": data_digest(data),
        "run": _packed(to_json(run)),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda m: parts[m[1]], _file("page.html"))


def viewer_script() -> str:
    """The modules as one script: their names are all different, so imports and exports can go."""
    parts = [_EXPORT.sub("", _IMPORT.sub("", _file(f"{name}.js"))) for name in MODULES]
    script = '"use strict";\n' + "\n".join(parts)
    if "</script" in script.lower():
        raise AssertionError("the viewer's own code must not hold an end of a script element")
    return script


def data_digest(data: Mapping[str, Any]) -> str:
    """SHA-256 of the data part: equal for equal input."""
    return hashlib.sha256(to_json(data).encode()).hexdigest()


def read_page(path: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(data, run) of an explorer file. Raises InputError for anything else."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"there is no file {str(path)!r}; write one with: vitc explore MODEL") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{str(path)!r} is no explorer file: {error}") from error
    parts = []
    for name in ("data", "run"):
        found = re.search(_PART.format(name=name), text)
        if found is None:
            raise InputError(f"{str(path)!r} is no explorer file: it has no element 'vitc-{name}'")
        try:
            parts.append(json.loads(zlib.decompress(base64.b64decode(found[1]), -15)))
        except (ValueError, zlib.error) as error:
            raise InputError(f"the explorer file {str(path)!r} is damaged: {error}") from error
    data, run = parts
    files = data.get("files", [data])
    for each in files:
        if each.get("schema") != SCHEMA:
            raise InputError(f"{str(path)!r} is of the form {each.get('schema')!r}, this vitc reads {SCHEMA!r}")
    return data, run


def _packed(text: str) -> str:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return base64.b64encode(packer.compress(text.encode()) + packer.flush()).decode()


def _sha(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _file(name: str) -> str:
    return resources.files("vitc.explorer").joinpath("viewer", name).read_text(encoding="utf-8")
