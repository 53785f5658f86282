"""manifest.json ↔ Manifest: strict in both directions.

The file holds one JSON object. `digest` is the SHA-256 of all the rest (keys sorted, no spaces), so a
manifest that was damaged or edited is refused like any other file; the other files' hashes are in `files`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, TypeVar

from vitc.bundle import limits
from vitc.bundle.paths import check_distinct, checked
from vitc.bundle.records import Dim, FileRecord, GoldenFiles, Manifest, TensorInfo, Tolerance, VersionRange
from vitc.errors import BundleError, InputError
from vitc.task import Task, task_from_dict, task_to_dict

FORMAT = "vitc-bundle"
SCHEMA = 2  # 2 has the key 'task'; 1 is still read
NAME = "manifest.json"

# Of a whole number: 64 bits, with a sign.
_MAX_DIGITS = 20

T = TypeVar("T")
C = TypeVar("C", list[Any], dict[str, Any])


def dump_manifest(manifest: Manifest) -> bytes:
    """The manifest as the bytes of manifest.json."""
    body = {"format": FORMAT, "schema": SCHEMA, **_plain(manifest)}
    return _json({**body, "digest": _digest(body)}, indent=1)


def _plain(manifest: Manifest) -> dict[str, Any]:
    return {
        "vitc": manifest.vitc,
        "pipeline": manifest.pipeline,
        "target": dict(manifest.target),
        "model": manifest.model,
        "dims": {name: asdict(dim) for name, dim in manifest.dims.items()},
        "inputs": [_tensor(info) for info in manifest.inputs],
        "outputs": [_tensor(info) for info in manifest.outputs],
        "structure": manifest.structure,
        "tensorrt": asdict(manifest.tensorrt) if manifest.tensorrt else None,
        "tolerance": asdict(manifest.tolerance),
        "golden": [{"inputs": dict(pair.inputs), "outputs": dict(pair.outputs)} for pair in manifest.golden],
        "calibration": manifest.calibration,
        "plugin": list(manifest.plugin),
        "task": task_to_dict(manifest.task) if manifest.task else None,
        "files": {path: asdict(record) for path, record in sorted(manifest.files.items())},
    }


def _tensor(info: TensorInfo) -> dict[str, Any]:
    plain: dict[str, Any] = {"name": info.name, "dtype": info.dtype, "shape": list(info.shape)}
    return plain if info.preprocessing is None else {**plain, "preprocessing": dict(info.preprocessing)}


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(_json(body, sort_keys=True, separators=(",", ":"))).hexdigest()


def _json(body: Mapping[str, Any], **form: Any) -> bytes:
    try:
        return json.dumps(body, allow_nan=False, default=_mapping, **form).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise BundleError(f"the contents of a manifest must be JSON: {error}") from error


def _mapping(value: object) -> dict[str, Any]:
    """What json can't write itself: a read-only mapping is a dict to it, anything else an error."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{value!r} is a {type(value).__name__}")


def parse_manifest(data: bytes, source: str) -> Manifest:
    """The manifest in `data`; BundleError, naming `source`, where it is not one this vitc can read."""
    body = _json_object(data, source)
    if body.get("format") != FORMAT:
        raise BundleError(
            f"{source} has the format {_shown(body.get('format'))}; a bundle's is {FORMAT!r}: not a vitc bundle"
        )
    schema = body.get("schema")
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        raise BundleError(f"{source} has the schema version {_shown(schema)}; it is a whole number from 1 to {SCHEMA}")
    if schema > SCHEMA:
        writer = _shown(body.get("vitc")).strip("'")
        raise BundleError(
            f"{source} has schema version {schema} (written by vitc {writer}); this vitc reads up "
            f"to {SCHEMA}: upgrade vitc, or compile again with this one"
        )
    stated = body.pop("digest", None)
    found = _digest(body)
    if stated != found:
        raise BundleError(f"{source} is damaged: it states the digest {_shown(stated)}, its contents have {found!r}")
    reader = _Reader(body, source)
    return _manifest(reader)


def _json_object(data: bytes, source: str) -> dict[str, Any]:
    try:
        body = json.loads(
            data.decode("utf-8"), object_pairs_hook=_no_doubles, parse_constant=_no_constant, parse_int=_whole
        )
        _check_plain(body)
    except _NotPlainError as error:
        raise BundleError(f"{source} is damaged: {error}") from error
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise BundleError(f"{source} is damaged: not JSON ({error})") from error
    if not isinstance(body, dict):
        raise BundleError(f"{source} holds a JSON {type(body).__name__}; a manifest is an object: not a vitc bundle")
    return body


class _NotPlainError(Exception):
    pass


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    body: dict[str, Any] = {}
    for key, value in pairs:
        if key in body:
            raise _NotPlainError(f"the key {_shown(key)} stands twice in one object")
        body[key] = value
    return body


def _no_constant(name: str) -> float:
    raise _NotPlainError(f"{name} is not a JSON number")


def _whole(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise _NotPlainError(f"a number of {len(text)} digits; at most {_MAX_DIGITS} are read")
    return int(text)


def _check_plain(body: Any) -> None:
    """Nothing nested so deep, no number so large and no text so odd that code behind this would have to mind."""
    level, depth = [body], 0
    while level:
        depth += 1
        if depth > limits.DEPTH:
            raise _NotPlainError(f"its contents are nested deeper than {limits.DEPTH}")
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner += [*value, *value.values()]
            elif isinstance(value, list):
                inner += value
            elif isinstance(value, float) and not math.isfinite(value):
                raise _NotPlainError("a number is too large")
            elif isinstance(value, str) and not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
                raise _NotPlainError(f"the text {_shown(value)} holds half a character")
        level = inner


def _shown(value: object) -> str:
    """What a file holds, for a message: never long, and never raw."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}…"


class _Reader:
    """Takes typed values out of a JSON object; the message of a wrong one says where it stands."""

    def __init__(self, body: Mapping[str, Any], where: str) -> None:
        self.body = body
        self.where = where

    def take(self, key: str, *kinds: type) -> Any:
        if key not in self.body:
            raise BundleError(f"{self.where} has no {key!r}; it has: {_shown(sorted(self.body))}")
        value = self.body[key]
        # bool is an int to isinstance, never to a manifest.
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            wanted = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
            raise BundleError(f"{self.where}: {key!r} must be {wanted}, got {_shown(value)}")
        return value

    def each(self, key: str, read: Callable[[_Reader], T]) -> list[T]:
        items = self._few(key, self.take(key, list))
        return [read(self._inner(item, f"{key}[{i}]")) for i, item in enumerate(items)]

    def table(self, key: str, read: Callable[[_Reader], T], most: int = limits.TENSORS) -> dict[str, T]:
        items = self._few(key, self.take(key, dict), most)
        return {name: read(self._inner(item, f"{key}[{_shown(name)}]")) for name, item in items.items()}

    def strings(self, key: str) -> dict[str, str]:
        table = self._few(key, self.take(key, dict))
        return {name: _Reader(table, f"{self.where}: {key!r}").take(name, str) for name in table}

    def inner(self, key: str) -> _Reader:
        return self._inner(self.take(key, dict), key)

    def _few(self, key: str, items: C, most: int = limits.TENSORS) -> C:
        if len(items) > most:
            raise BundleError(f"{self.where}: {key!r} holds {len(items)} entries; a bundle has at most {most}")
        return items

    def _inner(self, item: Any, key: str) -> _Reader:
        if not isinstance(item, dict):
            raise BundleError(f"{self.where}: {key} must be an object, got {_shown(item)}")
        return _Reader(item, f"{self.where}: {key}")


def _manifest(r: _Reader) -> Manifest:
    manifest = Manifest(
        vitc=r.take("vitc", str),
        pipeline=r.take("pipeline", str),
        target=r.take("target", dict),
        inputs=tuple(r.each("inputs", _read_tensor)),
        outputs=tuple(r.each("outputs", _read_tensor)),
        structure=r.take("structure", dict),
        dims=r.table("dims", lambda d: Dim(d.take("min", int), d.take("max", int))),
        tensorrt=None if r.take("tensorrt", dict, type(None)) is None else _read_versions(r.inner("tensorrt")),
        tolerance=_read_tolerance(r.inner("tolerance")),
        golden=tuple(r.each("golden", lambda g: GoldenFiles(g.strings("inputs"), g.strings("outputs")))),
        calibration=r.take("calibration", str, type(None)),
        plugin=tuple(_strings(r.take("plugin", list), r.where)),
        model=r.take("model", str),
        files=r.table("files", _read_file, limits.FILES),
        task=_read_task(r) if r.take("schema", int) > 1 else None,
    )
    for path in manifest.files:
        checked(path, r.where)
    check_distinct([NAME, *manifest.files], r.where)
    for path in _named_files(manifest):
        if path not in manifest.files:
            raise BundleError(
                f"{r.where} uses the file {_shown(path)} but does not list it; listed: {sorted(manifest.files)}"
            )
    return manifest


def _named_files(manifest: Manifest) -> list[str]:
    named = [manifest.model, *manifest.plugin, *([manifest.calibration] if manifest.calibration else [])]
    for pair in manifest.golden:
        named += [*pair.inputs.values(), *pair.outputs.values()]
    return named


def _strings(items: list[Any], where: str) -> list[str]:
    for item in items:
        if not isinstance(item, str):
            raise BundleError(f"{where}: 'plugin' holds {_shown(item)}; it is a list of paths")
    return items


def _read_tensor(r: _Reader) -> TensorInfo:
    preprocessing = r.take("preprocessing", dict) if "preprocessing" in r.body else None
    return TensorInfo(r.take("name", str), r.take("dtype", str), tuple(r.take("shape", list)), preprocessing)


def _read_versions(r: _Reader) -> VersionRange:
    return VersionRange(r.take("min", str), r.take("below", str))


def _read_tolerance(r: _Reader) -> Tolerance:
    return Tolerance(float(r.take("cosine", int, float)), float(r.take("relative", int, float)))


def _read_task(r: _Reader) -> Task | None:
    plain = r.take("task", dict, type(None))
    try:
        return None if plain is None else task_from_dict(plain)
    except InputError as error:
        raise BundleError(f"{r.where}: {error}") from error


def _read_file(r: _Reader) -> FileRecord:
    return FileRecord(r.take("sha256", str), r.take("bytes", int))
