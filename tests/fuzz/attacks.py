"""What is attacked: each kind makes a mutant from a seed, hands it to vitc, and looks at what was taken."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import math
import random
import string
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

import mutate
from harness import Attempt, WrongAccept
from seeds import bundle_contents

from vitc import runtime
from vitc.bundle import Bundle, read_bundle, write_bundle
from vitc.errors import VitcError
from vitc.files.npy import read_npy


@functools.cache
def _seed(form: str) -> dict[str, bytes]:
    """The files of the valid bundle, or its archive under the name ''."""
    import tempfile

    with tempfile.TemporaryDirectory() as base:
        path = write_bundle(Path(base) / "b", bundle_contents(), form).path  # type: ignore[arg-type]
        if form == "file":
            return {"": path.read_bytes()}
        return {p.relative_to(path).as_posix(): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def _same(bundle: Bundle) -> None:
    """Taken with its old seals: then every byte that counts is the old one."""
    seed = _seed("folder")
    for name in bundle.manifest.files:
        if bundle.read(name) != seed[name]:
            raise WrongAccept(f"{name} is another, and was taken")
    if json.loads(bundle.head) != json.loads(seed["manifest.json"]):
        raise WrongAccept("the manifest is another, and was taken")


# -- bundles


def archive(rng: random.Random, work: Path) -> None:
    """The bytes of a .vitc file."""
    path = work / "b.vitc"
    path.write_bytes(mutate.flipped(rng, _seed("file")[""]))
    _same(read_bundle(path))


def forged_archive(rng: random.Random, work: Path) -> None:
    """A zip with right hashes and odd entries: names, links, compression, doubles, comments."""
    body, files = _opened()
    name = rng.choice([
        "../x", "/tmp/x", "a/../../x", "C:\\x", "a\\b", "con", "n" * 300, "a/" * 600 + "x", "Model.onnx", "build.sh/x",
        "manifest.json/x", "MANIFEST.JSON", "e\u0301", "\u00e9", "x.", "x ", "a\0b", "a\nb", "\u202ex", "", ".",
        "plugin", "extra/fine.txt", "another",
    ])  # fmt: skip
    files[name] = b"x"
    path = work / "b.vitc"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("manifest.json", _sealed(body, files))
        odd = rng.choice([*files, None])  # one entry of another kind, or none
        for entry, data in files.items():
            info = zipfile.ZipInfo(entry)
            info.filename = entry
            info.external_attr = (rng.choice((0o120777, 0o010644, 0o040755)) if entry == odd else 0o100644) << 16
            info.compress_type = zipfile.ZIP_DEFLATED if entry == odd and rng.random() < 0.3 else zipfile.ZIP_STORED
            made.writestr(info, data)
        made.comment = rng.randbytes(rng.choice((0, 10, 60_000)))
    _inside(read_bundle(path))


def _inside(bundle: Bundle) -> None:
    for name in bundle.manifest.files:
        if not bundle.file(name).resolve().is_relative_to(bundle.root.resolve()):
            raise WrongAccept(f"{name} lies outside")


def _opened() -> tuple[dict[str, Any], dict[str, bytes]]:
    files = dict(_seed("folder"))
    body = json.loads(files.pop("manifest.json"))
    return {key: value for key, value in body.items() if key not in ("digest", "files")}, files


def _sealed(body: dict[str, Any], files: dict[str, bytes]) -> bytes:
    listed = {name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in files.items()}
    whole = {**body, "files": listed}
    text = json.dumps(whole, sort_keys=True, separators=(",", ":"))
    return json.dumps({**whole, "digest": hashlib.sha256(text.encode()).hexdigest()}).encode()


def _written(work: Path, files: dict[str, bytes]) -> Path:
    root = work / "b"
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def folder(rng: random.Random, work: Path) -> None:
    """A folder whose files were changed after it was sealed."""
    files = dict(_seed("folder"))
    name = rng.choice(sorted(files))
    if rng.random() < 0.9:
        files[name] = mutate.flipped(rng, files[name])
    else:
        del files[name]
    _same(read_bundle(_written(work, files)))


def manifest(rng: random.Random, work: Path) -> None:
    """A manifest of other values, sealed by somebody who knows the format; loaded, checked and timed."""
    body, files = _opened()
    changed = mutate.plain(rng, {**body, "files": {}})
    if not isinstance(changed, dict):
        changed = {"a": changed}
    changed.pop("files", None)
    _run(work, changed, files)


def contents(rng: random.Random, work: Path) -> None:
    """Files of other bytes, sealed: arrays, the table, the model."""
    body, files = _opened()
    name = rng.choice([n for n in sorted(files) if n.endswith((".npy", ".onnx", ".json"))])
    files[name] = npy_bytes(rng) if name.endswith(".npy") and rng.random() < 0.5 else mutate.flipped(rng, files[name])
    _run(work, body, files)


#: The engine that mutants run on: None only reads them.
ENGINE: list[str | None] = ["onnxruntime"]


def _run(work: Path, body: dict[str, Any], files: dict[str, bytes]) -> None:
    try:
        sealed = _sealed(body, files)
    except (RecursionError, ValueError, UnicodeEncodeError):
        return  # JSON can't say it
    path = _written(work, {**files, "manifest.json": sealed})
    if ENGINE[0] is None:
        list(read_bundle(path).golden())
        return
    with runtime.load(path, ENGINE[0], threads=1) as runner:
        _inside(runner.bundle)
        runner.self_check()
        runner.benchmark(rounds=1, warmup=0)


# -- state


@functools.cache
def _states() -> dict[str, bytes]:
    import tempfile

    from saves import SAVES

    found = {}
    with tempfile.TemporaryDirectory() as base:
        for name in ("search-journal", "plan", "state-file"):
            save = SAVES[name]()
            save.write(Path(base), "seed")
            found[name] = (Path(base) / save.name).read_bytes()
    return found


def _damaged(rng: random.Random, work: Path, name: str) -> None:
    from saves import SAVES

    save = SAVES[name]()
    data = _states()[name]
    if name != "state-file" and rng.random() < 0.5:  # other types, the old seal
        data = _dumped(mutate.plain(rng, json.loads(data)))
    else:
        data = mutate.flipped(rng, data)
    (work / save.name).write_bytes(data)
    try:
        found = save.read(work)
    except AssertionError as error:
        raise WrongAccept(str(error)[:100]) from error
    if found != "seed":
        raise WrongAccept(f"{found!r} was taken")


def _dumped(tree: Any) -> bytes:
    try:
        return json.dumps(tree).encode()
    except (RecursionError, ValueError):
        return b"["


# -- texts


@functools.cache
def _pipelines() -> list[str]:
    import vitc.passes.all  # noqa: F401

    return [
        "canonical,tile-attention{tile_q=64},quantize-int8{calibrator=mse,skip=[head,blocks.0.*]}",
        'prune{ratio=0.35,criterion=l1,keep=["a,b"]},drop-noops', "drop-noops",
        "quantize-int8{attention=false,head=true}",
        "prune", "tile-attention{tile_q=0,tile_k=128},canonical", 'quantize-int8{skip=["\\\\x", "\\""]}',
    ]  # fmt: skip


def pipeline(rng: random.Random, work: Path) -> None:
    from vitc.pipeline import parse_pipeline, print_pipeline

    passes = parse_pipeline(mutate.text(rng, _pipelines()))
    again = parse_pipeline(print_pipeline(passes))
    if repr(again) != repr(passes):
        raise WrongAccept(f"{print_pipeline(passes)} is read back as another")


@functools.cache
def _targets() -> list[str]:
    import vitc.targets

    own = [p.read_text() for p in sorted(Path(vitc.targets.__file__).parent.glob("*.toml"))]
    return [*own, 'base = "orin"\nsm_count = 8\n', 'base = "x.toml"\n[utilisation]\nmemory = 0.5\n']


def target(rng: random.Random, work: Path) -> None:
    from vitc import targets
    from vitc.targets.loader import from_dict

    (work / "x.toml").write_bytes(mutate.text(rng, _targets()).encode("utf-8", "surrogatepass"))
    found = targets.load(work / "x.toml")
    for value in (found.clock_mhz, found.memory_gbs, found.fp16_tflops, found.int8_quantum):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise WrongAccept(f"a figure is {value}")
    if from_dict(found.to_dict()) != found:
        raise WrongAccept("it comes back as another")


# -- pictures and arrays


@functools.cache
def _pictures() -> list[tuple[str, bytes]]:
    from PIL import Image

    y, x = np.mgrid[:24, :40]
    rgb = np.stack([x * 6, y * 10, x + y], -1).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    found = []
    for suffix, mode, options in (
        ("jpg", "RGB", {"exif": exif}), ("png", "RGB", {"exif": exif}), ("png", "P", {}), ("gif", "P", {}),
        ("bmp", "RGB", {}), ("ppm", "RGB", {}), ("tif", "RGB", {"compression": "tiff_lzw"}), ("tif", "L", {}),
        ("webp", "RGB", {}), ("jpg", "CMYK", {}), ("png", "1", {}), ("png", "LA", {}),
    ):  # fmt: skip
        sink = io.BytesIO()
        kind = {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper())
        Image.fromarray(rgb).convert(mode).save(sink, kind, **options)
        found.append((suffix, sink.getvalue()))
    for dtype, top in (("u2", 65535), ("i4", 99999), ("f4", 1.0)):
        sink = io.BytesIO()
        ramp = np.linspace(0, top, 24 * 40).reshape(24, 40).astype(dtype)
        Image.fromarray(ramp).save(sink, "PNG" if dtype == "u2" else "TIFF")
        found.append(("png" if dtype == "u2" else "tif", sink.getvalue()))
    return found


def picture(rng: random.Random, work: Path) -> None:
    from vitc import ImageFolder, Preprocessing

    suffix, data = rng.choice(_pictures())
    data = data if rng.random() < 0.05 else mutate.flipped(rng, data)
    (work / f"a.{suffix}").write_bytes(data)
    fit = rng.choice(("crop", "stretch", "letterbox"))
    for batch in ImageFolder(work, Preprocessing((16, 20), fit=fit)):
        if (
            batch.shape != (1, 3, 16, 20)
            or batch.dtype != np.float32
            or not (batch >= 0).all()
            or not (batch <= 1).all()
        ):
            raise WrongAccept(f"{batch.dtype} {batch.shape}, from {batch.min()} to {batch.max()}")


def npy_bytes(rng: random.Random) -> bytes:
    """An .npy file with an odd header, or with changed bytes."""
    if rng.random() < 0.5:
        sink = io.BytesIO()
        np.save(sink, np.arange(24).astype(rng.choice(("f4", "f8", "i8", "u1", "?", "c8"))).reshape(2, 3, 4))
        return mutate.flipped(rng, sink.getvalue())
    descr = rng.choice(("'<f4'", "'|O'", "'<U5'", "[('a', '<f4')]", "'<f3'", "'>f8'", "'V2'", "1", "'<f4' '<f4'"))
    shape = rng.choice(
        (
            "(2, 3)",
            "()",
            "(0,)",
            "(-1,)",
            "(True,)",
            "(1e3,)",
            f"({'9' * 30},)",
            "(2**40,)",
            "[2]",
            "(" * 90 + ")" * 90,
            "'a'",
        )
    )
    header = rng.choice((
        f"{{'descr': {descr}, 'fortran_order': {rng.choice(('True', 'False', '1'))}, 'shape': {shape}}}",
        "{[]: 1}", "-" * 9000 + "1", "[" * 200, "".join(rng.choices(string.printable, k=60)), "\0" * 40,
    ))  # fmt: skip
    data = header.encode("latin-1").ljust(117) + b"\n"
    size = rng.choice((len(data), len(data), 0, 65535))
    return (
        b"\x93NUMPY" + rng.choice((b"\1\0", b"\2\0", b"\3\0", b"\4\0")) + size.to_bytes(2, "little") + data + bytes(24)
    )


def array(rng: random.Random, work: Path) -> None:
    (work / "a.npy").write_bytes(npy_bytes(rng))
    try:
        found = read_npy(work / "a.npy")
    except (OSError, ValueError) as error:  # what its docs name; every caller makes a VitcError of it
        raise VitcError(str(error)) from error
    want = np.load(work / "a.npy", allow_pickle=False)
    if found.dtype != want.dtype or found.shape != want.shape or found.tobytes() != want.tobytes():
        raise WrongAccept(f"{found.dtype} {found.shape}, NumPy reads {want.dtype} {want.shape}")


def calibration(rng: random.Random, work: Path) -> None:
    """The same arrays, as a user's calibration data."""
    import torch

    from vitc.calibration.source import calibration_stream
    from vitc.frontend.capture import capture
    from vitc.targets import load

    (work / "a.npy").write_bytes(npy_bytes(rng))
    program = capture(torch.nn.Identity().eval(), load("cpu"), torch.zeros(2, 3, 4))
    for (batch,) in calibration_stream(work / "a.npy", program):
        if batch.shape[1:] != (3, 4) or not torch.isfinite(batch).all():
            raise WrongAccept(f"a batch of {list(batch.shape)}")


ATTACKS: dict[str, Attempt] = {
    "archive": archive,
    "forged-archive": forged_archive,
    "folder": folder,
    "manifest": manifest,
    "contents": contents,
    **{name: functools.partial(_damaged, name=name) for name in ("search-journal", "plan", "state-file")},
    "pipeline": pipeline,
    "target": target,
    "picture": picture,
    "array": array,
    "calibration": calibration,
}


def warm_up(kind: str) -> None:
    """What every child would else do for itself, before the first fork: no thread may have begun by then."""
    seeds: dict[str, Callable[[], object]] = {
        "pipeline": _pipelines, "target": _targets, "picture": _pictures, "search-journal": _states, "plan": _states,
        "state-file": _states,
    }  # fmt: skip
    seeds.get(kind, lambda: (_seed("folder"), _seed("file")))()
