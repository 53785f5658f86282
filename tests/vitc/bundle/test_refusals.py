"""What is damaged, truncated, missing, foreign, newer or forged is refused, with both values named."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from vitc.bundle import BundleContents, onnx_refs, read_bundle, write_bundle
from vitc.bundle.onnx_refs import external_locations
from vitc.errors import BundleError


@pytest.fixture
def folder(contents: BundleContents, tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "b", contents).path


@pytest.fixture
def file(contents: BundleContents, tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "b.vitc", contents, "file").path


def refused(path: Path) -> str:
    with pytest.raises(BundleError) as caught:
        read_bundle(path)
    return str(caught.value)


def sealed(body: dict[str, Any]) -> bytes:
    """A manifest with the digest that belongs to it: what somebody who knows the format could write."""
    body = {key: value for key, value in body.items() if key != "digest"}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return json.dumps({**body, "digest": hashlib.sha256(text.encode()).hexdigest()}).encode()


def forge(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    head = folder / "manifest.json"
    body = json.loads(head.read_bytes())
    change(body)
    head.write_bytes(sealed(body))


def rezip(source: Path, target: Path, edit: Callable[[zipfile.ZipInfo, bytes], tuple[zipfile.ZipInfo, bytes]]) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            new.writestr(*edit(info, old.read(info)))
    return target


# -- not a bundle


def test_nothing_there(tmp_path: Path) -> None:
    assert "there is no bundle at" in refused(tmp_path / "nowhere")


def test_another_folder_and_another_file(tmp_path: Path) -> None:
    assert "has no manifest.json: not a vitc bundle" in refused(tmp_path)
    text = tmp_path / "notes.txt"
    text.write_text("notes")
    assert "not a vitc bundle" in refused(text)
    other = tmp_path / "other.zip"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("readme.md", "hello")
    assert "has no manifest.json: not a vitc bundle" in refused(other)


def test_another_manifest(folder: Path) -> None:
    head = folder / "manifest.json"
    for text, message in (
        ('{"name": "a web page"}', "has the format None; a bundle's is 'vitc-bundle': not a vitc bundle"),
        ("[1, 2]", "holds a JSON list; a manifest is an object: not a vitc bundle"),
        ("{", "is damaged: not JSON"),
        ("[" * 100_000, "is damaged: not JSON"),
        ('{"format": "vitc-bundle", "format": 1}', "the key 'format' stands twice in one object"),
        ('{"schema": NaN}', "NaN is not a JSON number"),
    ):
        head.write_text(text)
        assert message in refused(folder)
    head.write_bytes(b"\xff\xfe")
    assert "is damaged: not JSON" in refused(folder)
    with head.open("wb") as out:
        out.truncate((16 << 20) + 1)
    assert "is larger than 16777216 bytes: not the manifest" in refused(folder)


def test_a_newer_schema(folder: Path) -> None:
    forge(folder, lambda body: body.update(schema=7, vitc="9.9"))
    assert "has schema version 7 (written by vitc 9.9); this vitc reads up to 2: upgrade vitc" in refused(folder)
    forge(folder, lambda body: body.update(schema="two"))
    assert "has the schema version 'two'; it is a whole number from 1 to 2" in refused(folder)


# -- damaged


def test_a_flipped_bit(folder: Path) -> None:
    path = folder / "golden/0/output_0.npy"
    data = bytearray(path.read_bytes())
    stated = hashlib.sha256(data).hexdigest()
    data[-1] ^= 1
    path.write_bytes(data)
    found = hashlib.sha256(data).hexdigest()
    message = refused(folder)
    assert f"golden/0/output_0.npy is damaged: the manifest states SHA-256 {stated}, it has {found}" in message


def test_a_truncated_and_a_longer_file(folder: Path) -> None:
    path = folder / "model.onnx"
    data = path.read_bytes()
    path.write_bytes(data[:-3])
    assert f"model.onnx is truncated: the manifest states {len(data)} bytes, it has {len(data) - 3}" in refused(folder)
    path.write_bytes(data + b"\0")
    assert f"model.onnx is damaged: the manifest states {len(data)} bytes, it has more" in refused(folder)


def test_an_edited_manifest(folder: Path) -> None:
    head = folder / "manifest.json"
    head.write_text(head.read_text().replace('"max": 8', '"max": 9'))
    message = refused(folder)
    assert "manifest.json is damaged: it states the digest" in message
    assert "its contents have" in message


def test_a_missing_and_a_foreign_file(folder: Path) -> None:
    (folder / "plugin" / "notes.txt").write_text("mine")
    assert "has foreign files, which its manifest does not list: plugin/notes.txt" in refused(folder)
    (folder / "plugin" / "notes.txt").unlink()
    (folder / "calibration.json").unlink()
    assert "lacks calibration.json, which its manifest lists" in refused(folder)


def test_a_file_cut_anywhere_is_refused(file: Path) -> None:
    data = file.read_bytes()
    for size in range(0, len(data), 97):
        file.write_bytes(data[:size])
        refused(file)


def test_a_file_with_any_byte_changed_is_refused_or_the_same(contents: BundleContents, file: Path) -> None:
    """Bytes of the zip's own bookkeeping that nobody reads may change; no byte of the contents may."""
    data = file.read_bytes()
    stride = max(len(data) // 150, 1)
    survived = 0
    for at in range(0, len(data), stride):
        broken = bytearray(data)
        broken[at] ^= 0x55
        file.write_bytes(broken)
        try:
            bundle = read_bundle(file)
        except BundleError:
            continue
        survived += 1
        assert bundle.model.read_bytes() == contents.model
        assert bundle.manifest.pipeline == contents.pipeline
    assert survived < 60


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b.pop("pipeline"), "has no 'pipeline'; it has: "),
        (lambda b: b.update(pipeline=3), "'pipeline' must be str, got 3"),
        (lambda b: b.update(tensorrt="10"), "'tensorrt' must be dict or null, got '10'"),
        (lambda b: b.update(inputs=["x"]), "inputs[0] must be an object, got 'x'"),
        (lambda b: b["inputs"][0].update(dtype="float7"), "tensor 'x' has dtype 'float7'"),
        (lambda b: b["inputs"].append(b["inputs"][0]), "two inputs have the same name: x"),
        (lambda b: b["dims"]["batch"].update(min=True), "'min' must be int, got True"),
        (lambda b: b["dims"]["batch"].update(min=9), "1 <= min <= max, got min 9, max 8"),
        (lambda b: b.update(plugin=[1]), "'plugin' holds 1; it is a list of paths"),
        (lambda b: b.update(model="other.onnx"), "uses the file 'other.onnx' but does not list it"),
        (lambda b: b["golden"][0].update(inputs={}), "a golden pair has the inputs []; the model has ['x']"),
        (
            lambda b: b["golden"][0]["inputs"].update(x="../x.npy"),
            "uses the file '../x.npy' but does not list it",
        ),
    ],
)
def test_a_manifest_that_is_no_longer_one(folder: Path, change: Callable[[Any], None], message: str) -> None:
    forge(folder, change)
    assert message in refused(folder)


# -- forged

PATHS = [
    "../evil",
    "/etc/passwd",
    "a/../../evil",
    "C:\\evil",
    "a\\..\\evil",
    "a//b",
    "./a",
    "",
    "nul",
    "a\nb",
    "b.",
]


@pytest.mark.parametrize("path", PATHS)
def test_a_path_that_leads_out_of_the_folder(folder: Path, path: str) -> None:
    forge(folder, lambda body: body["files"].update({path: {"sha256": "0" * 64, "bytes": 0}}))
    assert f"names the file {path!r}; a bundle's files have relative paths" in refused(folder)


@pytest.mark.parametrize("path", ["../evil", "/tmp/evil", "a/../../evil", "a\\..\\evil"])
def test_a_zip_that_leads_out_of_the_folder(file: Path, path: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(path, "evil")
    assert f"names the file {path!r}; a bundle's files have relative paths" in refused(file)


def test_a_link_in_the_folder(folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    data = (folder / "model.onnx").read_bytes()
    secret.write_bytes(data)
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").symlink_to(secret)
    assert "holds 'model.onnx', a link or a special file" in refused(folder)


def test_a_linked_folder_and_a_linked_manifest(folder: Path, tmp_path: Path) -> None:
    os.rename(folder / "plugin", tmp_path / "elsewhere")
    (folder / "plugin").symlink_to(tmp_path / "elsewhere")
    assert "holds 'plugin', a link or a special file" in refused(folder)
    os.rename(folder / "manifest.json", tmp_path / "manifest.json")
    (folder / "manifest.json").symlink_to(tmp_path / "manifest.json")
    assert "has no manifest.json: not a vitc bundle" in refused(folder)


def test_a_link_in_the_zip(file: Path, tmp_path: Path) -> None:
    def link(info: zipfile.ZipInfo, data: bytes) -> tuple[zipfile.ZipInfo, bytes]:
        if info.filename == "build.sh":
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
        return info, data

    assert "holds 'build.sh', a link or a special file" in refused(rezip(file, tmp_path / "forged", link))


def test_a_compressed_bomb(file: Path, tmp_path: Path) -> None:
    def bomb(info: zipfile.ZipInfo, data: bytes) -> tuple[zipfile.ZipInfo, bytes]:
        if info.filename == "model.onnx":
            info.compress_type, data = zipfile.ZIP_DEFLATED, b"\0" * (8 << 20)
        return info, data

    assert "holds 'model.onnx' compressed or encrypted" in refused(rezip(file, tmp_path / "forged", bomb))


def test_a_file_twice_in_the_zip(file: Path) -> None:
    with zipfile.ZipFile(file, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("model.onnx", "again")
    assert "holds 'model.onnx' twice" in refused(file)


def test_a_zip_that_states_more_than_it_holds(file: Path) -> None:
    data = bytearray(file.read_bytes())
    at = data.index(b"model.onnx", data.index(b"PK\x01\x02"))
    # The sizes of the central directory's entry lie 26 and 22 bytes before its name.
    data[at - 26 : at - 18] = (1 << 30).to_bytes(4, "little") * 2
    file.write_bytes(data)
    assert f"bytes of files, the archive itself has {len(data)}: damaged or forged" in refused(file)


def test_an_unpacked_file_is_cleared_away_when_it_is_refused(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(unpacked))
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("foreign", "x")
    refused(file)
    assert list(unpacked.iterdir()) == []


def test_weights_outside_of_the_bundle(folder: Path) -> None:
    """An engine opens what the model names, so the model may name only the bundle's own files."""
    for location, message in (
        ("../../etc/passwd", "model.onnx names the file '../../etc/passwd'"),
        ("other.bin", "model.onnx keeps weights in 'other.bin', which the bundle lacks"),
    ):
        model = onnx.load(str(folder / "model.onnx"), load_external_data=False)
        (tensor,) = model.graph.initializer
        tensor.ClearField("raw_data")
        del tensor.external_data[:]
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        data = model.SerializeToString()
        (folder / "model.onnx").write_bytes(data)
        record = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        forge(folder, lambda body, record=record: body["files"].update({"model.onnx": record}))
        assert message in refused(folder)


def test_external_tensors_are_found_wherever_onnx_allows_one(tmp_path: Path) -> None:
    def tensor(location: str) -> TensorProto:
        made = helper.make_tensor(location, TensorProto.FLOAT, [1], [1.0])
        made.ClearField("float_data")
        made.data_location = TensorProto.EXTERNAL
        made.external_data.add(key="location", value=location)
        made.external_data.add(key="offset", value="0")
        return made

    def constant(name: str, value: TensorProto) -> onnx.NodeProto:
        return helper.make_node("Constant", [], [name], value=value)

    branch = helper.make_graph([constant("b", tensor("in-subgraph"))], "g", [], [], [tensor("subgraph-weight")])
    sparse = onnx.SparseTensorProto(values=tensor("sparse-values"), indices=tensor("sparse-indices"), dims=[1])
    node = helper.make_node("If", ["c"], ["d"], then_branch=branch, else_branch=branch)
    node.attribute.append(helper.make_attribute("many", [tensor("in-list")]))
    graph = helper.make_graph([constant("a", tensor("in-node")), node], "g", [], [], [tensor("weight")])
    graph.sparse_initializer.append(sparse)
    function = helper.make_function("d", "F", [], ["f"], [constant("f", tensor("in-function"))], [])
    function.attribute_proto.append(helper.make_attribute("t", tensor("in-default")))
    model = helper.make_model(graph, functions=[function])
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    assert external_locations(path) == {
        "in-subgraph", "subgraph-weight", "sparse-values", "sparse-indices", "in-list", "in-node", "weight",
        "in-function", "in-default",
    }  # fmt: skip


def test_messages_nested_without_end(tmp_path: Path) -> None:
    data = b""
    for _ in range(onnx_refs._MAX_DEPTH):
        # Attribute.g (6) of Node.attribute (5) of Graph.node (1): a graph in a node in a graph.
        for field in (6, 5, 1):
            data = bytes([field << 3 | 2]) + _varint(len(data)) + data
    path = tmp_path / "m.onnx"
    path.write_bytes(b"\x3a" + _varint(len(data)) + data)
    with pytest.raises(BundleError, match="messages nested deeper than 64"):
        external_locations(path)


def _varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def test_a_golden_file_that_is_no_array(folder: Path) -> None:
    header = (
        b"\x93NUMPY\x01\x00v\x00"
        + b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999,), }".ljust(117)
        + b"\n"
    )
    for data in (b"no array", header, _pickled()):
        (folder / "golden/0/input_0.npy").write_bytes(data)
        record = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        forge(folder, lambda body, record=record: body["files"].update({"golden/0/input_0.npy": record}))
        bundle = read_bundle(folder)
        with pytest.raises(BundleError, match=r"input_0\.npy is damaged: not an array"):
            list(bundle.golden())


def _pickled() -> bytes:
    import io

    out = io.BytesIO()
    np.save(out, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return out.getvalue()


def test_an_unknown_file_of_a_bundle(folder: Path) -> None:
    with pytest.raises(BundleError, match=r"has no file 'weights.bin'; it has: \['build.sh'"):
        read_bundle(folder).file("weights.bin")


# -- what changes, waits, or is one on some systems only


def test_a_file_that_is_swapped_after_the_check(folder: Path) -> None:
    bundle = read_bundle(folder)
    path = folder / "golden/0/output_0.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(BundleError, match=r"output_0.npy is damaged: the manifest states SHA-256"):
        list(bundle.golden())
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(BundleError, match=r"output_0.npy cannot be read: .* is not a plain file"):
        list(bundle.golden())


def test_a_pipe_instead_of_a_bundle_and_in_one(folder: Path, tmp_path: Path, contents: BundleContents) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "there lies a pipe, a device or a socket at" in refused(tmp_path / "pipe")
    with pytest.raises(BundleError, match="exists and is not a vitc bundle"):
        write_bundle(tmp_path / "pipe", contents)
    os.mkfifo(folder / "plugin" / "pipe")
    assert "holds 'plugin/pipe', a link or a special file" in refused(folder)


@pytest.mark.parametrize("path", ["a\0b", "n" * 300, "\ud800"])
def test_a_path_that_no_system_takes(path: str) -> None:
    assert "cannot be read" in refused(Path(path))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("Model.onnx",), "names the files 'model.onnx' and 'Model.onnx', which are one file on some systems"),
        (("e\u0301", "\u00e9"), "which are one file on some systems"),
        (("MANIFEST.json",), "which are one file on some systems"),
        (("build.sh/x",), "names the files 'build.sh' and 'build.sh/x'; one can't lie in the other"),
        (("n" * 256,), "of 256 characters; a path in a bundle has at most 1024, each part of it 255 bytes"),
        (("a/" * 600 + "a",), "of 1201 characters; a path in a bundle has at most 1024"),
        (("a\u202eb",), "a bundle's files have relative paths inside it"),
    ],
)
def test_names_that_collide_or_are_too_long(folder: Path, names: tuple[str, ...], message: str) -> None:
    record = {"sha256": "0" * 64, "bytes": 0}
    forge(folder, lambda body: body["files"].update(dict.fromkeys(names, record)))
    assert message in refused(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b["dims"]["batch"].update(max=2**31), "a dimension's range ends at 2147483648"),
        (lambda b: b["inputs"][0].update(name="\x1b[2J"), "a name is at most 1024 characters that can be printed"),
        (lambda b: b["inputs"][0].update(shape=[2**31, 4]), "has the too large a dimension"),
        (lambda b: b["inputs"][0].update(shape=["batch", 2**30, 2]), "takes 8589934592 bytes at its smallest"),
        (lambda b: b["inputs"][0].update(shape=[1] * 17), "has 17 dimensions; at most 16 can be"),
        (lambda b: b["files"]["build.sh"].update(bytes=-1), "a bundle's file has 0 to"),
        (lambda b: b["files"]["build.sh"].update(sha256="x"), "a SHA-256 is 64 hexadecimal digits, got 'x'"),
        (lambda b: b.update(golden=[{"inputs": {}, "outputs": {}}] * 1025), "'golden' holds 1025 entries"),
        (lambda b: b.update(structure={"kind": [1], "items": []}), "structure has the kind [1]"),
        (lambda b: b.update(tensorrt={"min": "9" * 5000, "below": "99"}), "a TensorRT version is numbers"),
        (lambda b: b.update(pipeline="\ud800"), "holds half a character"),
        (lambda b: b.update(target={"a": 10**30}), "a number of 31 digits; at most 20 are read"),
    ],
)
def test_a_manifest_beyond_the_limits(folder: Path, change: Callable[[Any], None], message: str) -> None:
    forge(folder, change)
    assert message in refused(folder)


def test_a_manifest_nested_too_deep(folder: Path) -> None:
    head = folder / "manifest.json"
    text = head.read_text()
    for depth in (65, 900):
        head.write_text(text.replace('"pipeline"', f'"deep": {"[" * depth}{"]" * depth}, "pipeline"', 1))
        assert "its contents are nested deeper than 64" in refused(folder)


def test_a_model_of_too_many_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"\x08\x01" * 101)
    external_locations(path)
    monkeypatch.setattr("vitc.bundle.limits.MODEL_FIELDS", 100)
    with pytest.raises(BundleError, match="not an ONNX model .more than 100 fields"):
        external_locations(path)


def test_a_full_disk_while_unpacking(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vitc.bundle.read._copy", full)
    assert f"the bundle {file} cannot be read: [Errno 28] No space left on device" in refused(file)
