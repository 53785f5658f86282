"""Reading a bundle: nothing of it is used before all of it is checked."""

from __future__ import annotations

import shutil
import stat
import tempfile
import weakref
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vitc.bundle import manifest as manifest_file
from vitc.bundle.contents import Golden
from vitc.bundle.files import check_record, copy_hashed
from vitc.bundle.manifest import parse_manifest
from vitc.bundle.onnx_refs import external_locations
from vitc.bundle.paths import checked, under
from vitc.bundle.records import Manifest
from vitc.errors import BundleError


@dataclass(frozen=True)
class Bundle:
    """A checked bundle.

    `path` is what was read; `root` the folder its files lie in: `path` itself, or, for a `.vitc` file, a
    temporary folder that lives as long as this object.
    """

    path: Path
    root: Path
    manifest: Manifest

    @property
    def model(self) -> Path:
        """The ONNX file. Its external data lies beside it, as it says."""
        return under(self.root, self.manifest.model, manifest_file.NAME)

    @property
    def work(self) -> Path:
        """Where what is built from this bundle on this machine goes: beside the bundle, never inside it."""
        return self.path.with_name(self.path.name + ".local")

    def file(self, path: str) -> Path:
        """A file of the bundle by its path in the manifest."""
        if path not in self.manifest.files:
            raise BundleError(f"the bundle {self.path} has no file {path!r}; it has: {sorted(self.manifest.files)}")
        return under(self.root, path, manifest_file.NAME)

    def golden(self) -> Iterator[Golden]:
        """The golden pairs, one at a time."""
        for pair in self.manifest.golden:
            yield Golden(
                {name: _load_array(self.file(path)) for name, path in pair.inputs.items()},
                {name: _load_array(self.file(path)) for name, path in pair.outputs.items()},
            )


def _load_array(path: Path) -> npt.NDArray[np.generic]:
    # Mapped first: a header that states more than the file holds is refused before anything is allocated.
    try:
        return np.array(np.load(path, mmap_mode="r", allow_pickle=False))
    except (ValueError, OSError, EOFError) as error:
        raise BundleError(f"{path.name} is damaged: not an array ({error})") from error


def read_bundle(path: Path | str) -> Bundle:
    """The bundle at `path`, a folder or a `.vitc` file, with every file's size and SHA-256 checked.

    Raises:
        BundleError: not a bundle; newer than this vitc; damaged, truncated, or with a file missing or too
        many; a
            link or a path that leads out of it.
    """
    path = Path(path).absolute()
    if path.is_dir():
        return _read_folder(path)
    if path.is_file():
        return _read_file(path)
    raise BundleError(f"there is no bundle at {path}: a bundle is a folder or a .vitc file that vitc has written")


def _read_folder(root: Path) -> Bundle:
    head = root / manifest_file.NAME
    if not head.is_file() or head.is_symlink():
        raise BundleError(f"{root} has no {manifest_file.NAME}: not a vitc bundle")
    with head.open("rb") as file:
        data = file.read(manifest_file.MAX_BYTES + 1)
    manifest = _parse(data, str(head))
    _check_names(_files_below(root), manifest, str(root))
    for name, stated in manifest.files.items():
        with under(root, name, str(head)).open("rb") as file:
            check_record(f"{root}: {name}", stated, copy_hashed(file, None, stated.bytes))
    _check_references(root, manifest)
    return Bundle(root, root, manifest)


def _files_below(root: Path) -> Iterator[str]:
    for entry in sorted(root.rglob("*")):
        mode = entry.lstat().st_mode
        name = entry.relative_to(root).as_posix()
        if stat.S_ISDIR(mode):
            continue
        if not stat.S_ISREG(mode):
            raise BundleError(f"{root} holds {name!r}, a link or a special file; a bundle has plain files only")
        if name != manifest_file.NAME:
            yield name


def _read_file(path: Path) -> Bundle:
    folder = Path(tempfile.mkdtemp(prefix="vitc-bundle-"))
    try:
        with _archive(path) as archive:
            manifest = _unpack(archive, path, folder)
        _check_references(folder, manifest)
    except BaseException:
        shutil.rmtree(folder)
        raise
    bundle = Bundle(path, folder, manifest)
    weakref.finalize(bundle, shutil.rmtree, folder, ignore_errors=True)
    return bundle


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise BundleError(f"{path} is damaged, truncated, or not a vitc bundle: {error}") from error


def _unpack(archive: zipfile.ZipFile, path: Path, folder: Path) -> Manifest:
    entries = _entries(archive, path)
    head = entries.pop(manifest_file.NAME, None)
    if head is None:
        raise BundleError(f"{path} has no {manifest_file.NAME}: not a vitc bundle")
    with archive.open(head) as source:
        data = source.read(manifest_file.MAX_BYTES + 1)
    manifest = _parse(data, f"{path}: {manifest_file.NAME}")
    _check_names(entries, manifest, str(path))
    (folder / manifest_file.NAME).write_bytes(data)
    for name, stated in manifest.files.items():
        target = under(folder, name, str(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(entries[name]) as source, target.open("wb") as sink:
            check_record(f"{path}: {name}", stated, copy_hashed(source, sink, stated.bytes))
        if entries[name].external_attr >> 16 & stat.S_IXUSR:
            target.chmod(0o755)
    return manifest


def _entries(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    """The archive's files by name, after what a forged zip could do is ruled out."""
    entries: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        # orig_filename: ZipInfo cuts its filename at a NUL and turns the system's separators.
        name = checked(info.orig_filename, str(path))
        if name in entries:
            raise BundleError(f"{path} holds {name!r} twice; a bundle has each file once")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise BundleError(f"{path} holds {name!r} compressed or encrypted; a bundle's files are stored as they are")
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG):
            raise BundleError(f"{path} holds {name!r}, a link or a special file; a bundle has plain files only")
        entries[name] = info
    # Stored files can't add up to more than the archive, unless entries overlap.
    total, size = sum(info.file_size for info in entries.values()), path.stat().st_size
    if total > size:
        raise BundleError(f"{path} states {total} bytes of files, the archive itself has {size}: damaged or forged")
    return entries


def _parse(data: bytes, source: str) -> Manifest:
    if len(data) > manifest_file.MAX_BYTES:
        raise BundleError(f"{source} is larger than {manifest_file.MAX_BYTES} bytes: not the manifest of a vitc bundle")
    return parse_manifest(data, source)


def _check_names(found: Iterable[str], manifest: Manifest, source: str) -> None:
    names = set(found)
    missing, foreign = sorted(set(manifest.files) - names), sorted(names - set(manifest.files))
    if missing:
        raise BundleError(f"{source} lacks {', '.join(missing)}, which its manifest lists; it has {sorted(names)}")
    if foreign:
        raise BundleError(f"{source} has foreign files, which its manifest does not list: {', '.join(foreign)}")


def _check_references(root: Path, manifest: Manifest) -> None:
    """Every external file the model names is one of the bundle's own, so an engine opens nothing else."""
    for location in external_locations(under(root, manifest.model, manifest_file.NAME)):
        checked(location, manifest.model)
        if location not in manifest.files:
            raise BundleError(
                f"{manifest.model} keeps weights in {location!r}, which the bundle lacks; it has "
                f"{sorted(manifest.files)}"
            )
