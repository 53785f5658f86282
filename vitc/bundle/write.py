"""Writing a bundle: whole or not at all."""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vitc.bundle import manifest as manifest_file
from vitc.bundle.contents import BundleContents, Golden
from vitc.bundle.files import copy_hashed
from vitc.bundle.manifest import dump_manifest
from vitc.bundle.onnx_refs import external_locations
from vitc.bundle.paths import under
from vitc.bundle.read import Bundle, read_bundle
from vitc.bundle.records import FileRecord, GoldenFiles, Manifest
from vitc.errors import BundleError
from vitc.version import __version__

_SCRIPT = "build.sh"


def write_bundle(path: Path | str, contents: BundleContents, form: Literal["folder", "file"] = "folder") -> Bundle:
    """Write a bundle to `path` as a folder or as one file, and read it back.

    It is made beside `path` and moved there when it is complete; what was there before, if it was a bundle,
    is replaced then and not earlier. Anything else at `path` is never touched.

    Raises:
        BundleError: `path` holds something that is not a bundle, or the contents contradict each other.
    """
    if form not in ("folder", "file"):
        raise BundleError(f"a bundle's form is 'folder' or 'file', got {form!r}")
    path = Path(path).absolute()
    _refuse_to_overwrite(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _sibling(path) as work:
        folder = work / "bundle"
        folder.mkdir()
        _fill(folder, contents)
        bundle = read_bundle(folder)
        made = folder if form == "folder" else _pack(folder, work / "bundle.vitc")
        _move(made, path, work)
    return replace(bundle, path=path, root=path) if form == "folder" else read_bundle(path)


def _refuse_to_overwrite(path: Path) -> None:
    """Only what is a bundle by its looks is replaced: a damaged one too, a user's own folder never."""
    if path.is_symlink() or (path.exists() and not _looks_like_bundle(path)):
        raise BundleError(f"{path} exists and is not a vitc bundle; give another path, or remove it first")


def _looks_like_bundle(path: Path) -> bool:
    head = path / manifest_file.NAME
    if path.is_dir():
        if not any(path.iterdir()):
            return True
        return head.is_file() and manifest_file.FORMAT.encode() in head.read_bytes()[: manifest_file.MAX_BYTES]
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04" and manifest_file.NAME.encode() in file.read(256)


@contextmanager
def _sibling(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`: on the same file system, so that a rename is all it takes to
    publish.
    """
    work = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _move(made: Path, path: Path, work: Path) -> None:
    made.chmod(0o755 if made.is_dir() else 0o644)
    if made.is_file() and not path.is_dir():
        os.replace(made, path)
        return
    # A folder can't be replaced in one step: put the old one aside, and back if the new one does not get
    # there.
    aside = work / "old"
    if path.exists():
        os.rename(path, aside)
    try:
        os.rename(made, path)
    except BaseException:
        if aside.exists():
            os.rename(aside, path)
        raise


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
