"""Reading a bundle: nothing of it is used before all of it is checked."""

from __future__ import annotations

import errno
import io
import os
import stat
import struct
import weakref
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np
import numpy.typing as npt

from vitc.bundle import limits
from vitc.bundle import manifest as manifest_file
from vitc.bundle.contents import Golden
from vitc.bundle.files import check_record, copy_hashed
from vitc.bundle.manifest import parse_manifest
from vitc.bundle.onnx_refs import external_locations
from vitc.bundle.paths import checked, under
from vitc.bundle.records import FileRecord, Manifest
from vitc.errors import BundleError
from vitc.files.npy import parse_npy
from vitc.files.plain import open_plain
from vitc.files.saving import scratch

# What zipfile raises for archives that are none, besides its own: it believes the numbers it reads.
_ZIP_ERRORS = (
    zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, OverflowError, MemoryError, KeyError,
    IndexError, struct.error,
)  # fmt: skip


@dataclass(frozen=True)
class Bundle:
    """A checked bundle.

    `path` is what was read; `root` the folder its files lie in: `path` itself, or, for a `.vitc` file, a
    temporary folder that lives as long as this object. `head` is its manifest.json, as it was read.
    """

    path: Path
    root: Path
    manifest: Manifest
    head: bytes = field(repr=False)

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

    def read(self, path: str) -> bytes:
        """A file's bytes, by its path in the manifest: the very bytes whose hash is right, whatever lies there now."""
        with _plain(self.file(path)) as file:
            sink = io.BytesIO()
            stated = self.manifest.files[path]
            check_record(f"{self.path}: {path}", stated, copy_hashed(file, sink, stated.bytes))
        return sink.getvalue()

    def golden(self) -> Iterator[Golden]:
        """The golden pairs, one at a time."""
        for pair in self.manifest.golden:
            yield Golden(
                {name: self._array(path) for name, path in pair.inputs.items()},
                {name: self._array(path) for name, path in pair.outputs.items()},
            )

    def _array(self, path: str) -> npt.NDArray[np.generic]:
        size = self.manifest.files[path].bytes
        if size > limits.TENSOR_BYTES:
            raise BundleError(f"{self.path}: {path} has {size} bytes; a golden array has at most {limits.TENSOR_BYTES}")
        try:
            return parse_npy(io.BytesIO(self.read(path)))
        except ValueError as error:
            raise BundleError(f"{self.path}: {path} is damaged: not an array ({error})") from error


@contextmanager
def _plain(path: Path) -> Iterator[BinaryIO]:
    """A file of a folder, which may have become a link or a pipe since it was listed."""
    try:
        with open_plain(path, follow=False) as file:
            yield file
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error}") from error


def is_bundle(path: Path | str) -> bool:
    """Whether the path is meant as a bundle: a folder, or a file that begins like an archive."""
    path = Path(path)
    if not path.is_file():
        return path.is_dir()
    with _plain(path) as file:
        return file.read(4) == b"PK\x03\x04"


def read_bundle(path: Path | str) -> Bundle:
    """The bundle at `path`, a folder or a `.vitc` file, with every file's size and SHA-256 checked.

    Raises BundleError for what is not a bundle, is newer than this vitc, damaged or truncated, has a file missing or
    one too many, or a link or a path that leads out of it.
    """
    path = Path(path).absolute()
    try:
        return _read_folder(path) if stat.S_ISDIR(_mode(path)) else _read_file(path)
    except OSError as error:
        raise BundleError(f"the bundle {path} cannot be read: {error}") from error


def _mode(path: Path) -> int:
    """Of what lies at `path`, a folder or a plain file; BundleError where it is neither."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        mode = 0
    except ValueError as error:  # a NUL, or half a character
        raise OSError(errno.EINVAL, str(error), str(path)) from error
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
        there = "lies a pipe, a device or a socket" if mode else "is no bundle"
        raise BundleError(f"there {there} at {path}: a bundle is a folder or a .vitc file that vitc has written")
    return mode


def _read_folder(root: Path) -> Bundle:
    head = root / manifest_file.NAME
    if not head.is_file() or head.is_symlink():
        raise BundleError(f"{root} has no {manifest_file.NAME}: not a vitc bundle")
    with _plain(head) as file:
        data = file.read(limits.MANIFEST_BYTES + 1)
    manifest = _parse(data, str(head))
    _check_names(_files_below(root), manifest, str(root))
    for name, stated in manifest.files.items():
        with _plain(under(root, name, str(head))) as file:
            check_record(f"{root}: {name}", stated, copy_hashed(file, None, stated.bytes))
    _check_references(root, manifest)
    return Bundle(root, root, manifest, data)


def _files_below(root: Path) -> Iterator[str]:
    folders, count = [""], 0
    while folders:
        inside = folders.pop()
        with os.scandir(root / inside) as entries:
            for entry in entries:
                name = inside + entry.name
                count += 1
                if count > 2 * limits.FILES:
                    raise BundleError(f"{root} holds more than {2 * limits.FILES} files and folders; no bundle does")
                if entry.is_dir(follow_symlinks=False):
                    folders.append(f"{name}/")
                elif not entry.is_file(follow_symlinks=False):
                    raise BundleError(f"{root} holds {name!r}, a link or a special file; a bundle has plain files only")
                elif name != manifest_file.NAME:
                    yield name


def _read_file(path: Path) -> Bundle:
    folder = scratch("vitc-bundle")
    try:
        with _archive(path) as archive:
            manifest, data = _unpack(archive, path, folder.path)
        _check_references(folder.path, manifest)
    except BaseException:
        folder.remove()
        raise
    bundle = Bundle(path, folder.path, manifest, data)
    weakref.finalize(bundle, folder.remove)
    return bundle


class _Bounded(io.BufferedIOBase):
    """An archive's bytes; refuses to read the whole of a directory that no bundle has."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            size = limits.MANIFEST_BYTES  # the end of an archive is asked for so: 64 KiB
        if size > limits.MANIFEST_BYTES:
            raise zipfile.BadZipFile("it states a directory larger than any bundle's")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    with open_plain(path) as file:
        # The system's own errors (a full disk while unpacking) are not the archive's, but a seek to a place that
        # cannot be is.
        try:
            with zipfile.ZipFile(_Bounded(file)) as archive:
                yield archive
        except BundleError:
            raise
        except _ZIP_ERRORS as error:
            raise BundleError(f"{path} is damaged, truncated, or not a vitc bundle: {error}") from error
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise BundleError(f"{path} is damaged, truncated, or not a vitc bundle: {error}") from error


def _unpack(archive: zipfile.ZipFile, path: Path, folder: Path) -> tuple[Manifest, bytes]:
    entries = _entries(archive, path)
    head = entries.pop(manifest_file.NAME, None)
    if head is None:
        raise BundleError(f"{path} has no {manifest_file.NAME}: not a vitc bundle")
    with archive.open(head) as source:
        data = source.read(limits.MANIFEST_BYTES + 1)
    manifest = _parse(data, f"{path}: {manifest_file.NAME}")
    _check_names(entries, manifest, str(path))
    (folder / manifest_file.NAME).write_bytes(data)
    for name, stated in manifest.files.items():
        target = under(folder, name, str(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(entries[name]) as source, target.open("wb") as sink:
            _copy(f"{path}: {name}", source, sink, stated)
        if entries[name].external_attr >> 16 & stat.S_IXUSR:
            target.chmod(0o755)
    return manifest, data


def _copy(name: str, source: IO[bytes], sink: IO[bytes], stated: FileRecord) -> None:
    check_record(name, stated, copy_hashed(source, sink, stated.bytes))


def _entries(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    """The archive's files by name, after what a forged zip could do is ruled out."""
    entries: dict[str, zipfile.ZipInfo] = {}
    listed = archive.infolist()
    if len(listed) > limits.FILES + 1:
        raise BundleError(f"{path} holds {len(listed)} files; a bundle has at most {limits.FILES}")
    for info in listed:
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
    if len(data) > limits.MANIFEST_BYTES:
        raise BundleError(f"{source} is larger than {limits.MANIFEST_BYTES} bytes: not the manifest of a vitc bundle")
    return parse_manifest(data, source)


def _check_names(found: Iterable[str], manifest: Manifest, source: str) -> None:
    names = set(found)
    missing, foreign = sorted(set(manifest.files) - names), sorted(names - set(manifest.files))
    if missing:
        raise BundleError(f"{source} lacks {', '.join(missing)}, which its manifest lists; it has {sorted(names)}")
    if foreign:
        shown = ", ".join(name if name.isprintable() else ascii(name) for name in foreign)
        raise BundleError(f"{source} has foreign files, which its manifest does not list: {shown}")


def _check_references(root: Path, manifest: Manifest) -> None:
    """Every external file the model names is one of the bundle's own, so an engine opens nothing else."""
    for location in external_locations(under(root, manifest.model, manifest_file.NAME)):
        checked(location, manifest.model)
        if location not in manifest.files:
            raise BundleError(
                f"{manifest.model} keeps weights in {location!r}, which the bundle lacks; it has "
                f"{sorted(manifest.files)}"
            )
