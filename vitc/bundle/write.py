"""Writing a bundle: whole or not at all."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vitc.bundle import limits
from vitc.bundle import manifest as manifest_file
from vitc.bundle.contents import BundleContents, Golden
from vitc.bundle.files import copy_hashed
from vitc.bundle.manifest import dump_manifest
from vitc.bundle.onnx_refs import external_locations
from vitc.bundle.paths import under
from vitc.bundle.read import Bundle, read_bundle
from vitc.bundle.records import FileRecord, GoldenFiles, Manifest
from vitc.errors import BundleError
from vitc.files.plain import open_plain
from vitc.files.saving import beside, exchange, publish
from vitc.version import __version__

_SCRIPT = "build.sh"


def write_bundle(path: Path | str, contents: BundleContents, form: Literal["folder", "file"] = "folder") -> Bundle:
    """Writes a bundle to `path`, as a folder or as one file, and reads it back.

    It is made beside `path` and moved there when it is complete; what was there before, if it was a bundle, is replaced
    then and not earlier. Anything else at `path` is never touched.

    Raises BundleError where `path` holds something that is not a bundle, or the contents contradict each other.
    """
    if form not in ("folder", "file"):
        raise BundleError(f"a bundle's form is 'folder' or 'file', got {form!r}")
    path = Path(path).absolute()
    _refuse_to_overwrite(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside(path) as work:
            folder = work / "bundle"
            folder.mkdir()
            _fill(folder, contents)
            bundle = read_bundle(folder)
            made = folder if form == "folder" else _pack(folder, work / "bundle.vitc")
            made.chmod(0o755 if made.is_dir() else 0o644)
            publish(made, path)
    except OSError as error:
        raise BundleError(f"the bundle cannot be saved at {path}: {error}") from error
    return replace(bundle, path=path, root=path) if form == "folder" else read_bundle(path)


def check_destination(path: Path | str) -> None:
    """Raises BundleError, before anything is made, where `write_bundle` could not put a bundle at `path`: something
    else is there, nobody may write there, or the file system can't replace the folder that is there."""
    path = Path(path).absolute()
    _refuse_to_overwrite(path)
    try:
        parent = next(folder for folder in path.parents if folder.exists())
        if not parent.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(parent))
        if parent != path.parent and not os.access(parent, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(parent))
        if parent == path.parent:
            _try_out(path)
    except OSError as error:
        raise BundleError(f"a bundle cannot be saved at {path}: {error}") from error


def _try_out(path: Path) -> None:
    with beside(path) as work:
        made, old = work / "made", work / "old"
        made.mkdir()
        if path.is_dir():
            old.mkdir()
            exchange(made, old)


def _refuse_to_overwrite(path: Path) -> None:
    """Only what is a bundle by its looks is replaced: a damaged one too, a user's own folder never."""
    try:
        foreign = path.is_symlink() or (path.exists() and not _looks_like_bundle(path))
    except (OSError, ValueError) as error:
        raise BundleError(f"a bundle cannot be saved at {path}: {error}") from error
    if foreign:
        raise BundleError(f"{path} exists and is not a vitc bundle; give another path, or remove it first")


def _looks_like_bundle(path: Path) -> bool:
    head = path / manifest_file.NAME
    if path.is_dir():
        if not any(path.iterdir()):
            return True
        return head.is_file() and manifest_file.FORMAT.encode() in _head(head, limits.MANIFEST_BYTES)
    start = _head(path, 300) if path.is_file() else b""
    return start.startswith(b"PK\x03\x04") and manifest_file.NAME.encode() in start


def _head(path: Path, size: int) -> bytes:
    with open_plain(path) as file:
        return file.read(size)


def _fill(folder: Path, contents: BundleContents) -> None:
    writer = _Writer(folder)
    manifest = Manifest(
        vitc=__version__,
        pipeline=contents.pipeline,
        target=contents.target,
        inputs=contents.inputs,
        outputs=contents.outputs,
        structure=contents.structure,
        dims=contents.dims,
        tensorrt=contents.tensorrt,
        tolerance=contents.tolerance,
        golden=tuple(_golden(writer, i, pair, contents) for i, pair in enumerate(contents.golden)),
        calibration=_calibration(writer, contents.calibration),
        plugin=tuple(writer.add(f"plugin/{name}", source) for name, source in contents.plugin.items()),
        model=writer.add("model.onnx", contents.model),
        task=contents.task,
    )
    for location in sorted(external_locations(folder / "model.onnx")):
        if location not in contents.external_data:
            raise BundleError(
                f"the model keeps weights in {location!r}; external_data gives: "
                f"{', '.join(sorted(contents.external_data)) or '(none)'}"
            )
    for location, source in contents.external_data.items():
        writer.add(location, source)
    script = writer.add(_SCRIPT, Path(__file__).with_name(_SCRIPT))
    (folder / script).chmod(0o755)
    (folder / manifest_file.NAME).write_bytes(dump_manifest(replace(manifest, files=writer.files)))


class _Writer:
    """Puts files into the folder, and keeps their records."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, FileRecord] = {}

    def add(self, path: str, content: Path | bytes) -> str:
        target = under(self.folder, path, "the contents")
        if path in self.files or path == manifest_file.NAME:
            raise BundleError(f"the contents give the file {path!r} twice; each file of a bundle has its own path")
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            target.write_bytes(content)
        else:
            if not content.is_file():
                raise BundleError(f"the contents give {content} for the file {path!r}; there is no such file")
            shutil.copyfile(content, target)
        with target.open("rb") as file:
            self.files[path] = copy_hashed(file, None)
        return path


def _calibration(writer: _Writer, table: Mapping[str, Any] | None) -> str | None:
    if table is None:
        return None
    text = json.dumps(table, indent=1, ensure_ascii=False, allow_nan=False, default=dict)
    return writer.add("calibration.json", text.encode())


def _golden(writer: _Writer, number: int, pair: Golden, contents: BundleContents) -> GoldenFiles:
    paths = {}
    for kind, arrays, infos in (
        ("input", pair.inputs, contents.inputs),
        ("output", pair.outputs, contents.outputs),
    ):
        names = [info.name for info in infos]
        if set(arrays) != set(names):
            raise BundleError(f"golden pair {number} has the {kind}s {sorted(arrays)}; the model has {names}")
        # Numbered, not named: a tensor's name may hold anything, a path may not.
        paths[kind] = {
            name: writer.add(f"golden/{number}/{kind}_{i}.npy", _npy(arrays[name])) for i, name in enumerate(names)
        }
    return GoldenFiles(paths["input"], paths["output"])


def _npy(array: np.ndarray[Any, Any]) -> bytes:
    sink = io.BytesIO()
    np.save(sink, np.ascontiguousarray(array), allow_pickle=False)
    return sink.getvalue()


def _pack(folder: Path, path: Path) -> Path:
    """The folder as a stored zip, the same bytes for the same contents (fixed dates, sorted names)."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    # The manifest first: `file` and a quick look at the head of the archive tell what it is.
    files.sort(key=lambda file: file.name != manifest_file.NAME)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for file in files:
            info = zipfile.ZipInfo(file.relative_to(folder).as_posix(), date_time=(1980, 1, 1, 0, 0, 0))
            info.external_attr = (file.stat().st_mode & 0o777 | 0o100000) << 16
            info.file_size = file.stat().st_size
            with (
                file.open("rb") as source,
                archive.open(info, "w", force_zip64=info.file_size >= 1 << 31) as sink,
            ):
                shutil.copyfileobj(source, sink, 1 << 20)
    return path
