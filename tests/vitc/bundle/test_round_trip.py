"""What is written comes back; a failed write leaves what was there."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vitc.bundle import (
    BundleContents,
    Dim,
    Golden,
    TensorInfo,
    Tolerance,
    VersionRange,
    check_destination,
    read_bundle,
    rebuild,
    write,
    write_bundle,
)
from vitc.errors import BundleError

FORMS = ["folder", "file"]


@pytest.mark.parametrize("form", FORMS)
def test_everything_comes_back(form: str, contents: BundleContents, tmp_path: Path) -> None:
    path = tmp_path / "small.vitc"
    write_bundle(path, contents, form)  # type: ignore[arg-type]
    assert path.is_dir() == (form == "folder")
    bundle = read_bundle(path)
    manifest = bundle.manifest
    assert bundle.model.read_bytes() == contents.model
    for field in ("pipeline", "target", "inputs", "outputs", "structure", "dims", "tensorrt", "tolerance"):
        assert getattr(manifest, field) == getattr(contents, field), field
    assert sorted(manifest.files) == [
        "build.sh",
        "calibration.json",
        "golden/0/input_0.npy",
        "golden/0/output_0.npy",
        "model.onnx",
        "plugin/CMakeLists.txt",
        "plugin/src/attention.cu",
    ]
    assert manifest.plugin == ("plugin/CMakeLists.txt", "plugin/src/attention.cu")
    (pair,) = bundle.golden()
    np.testing.assert_array_equal(pair.inputs["x"], contents.golden[0].inputs["x"])
    np.testing.assert_array_equal(pair.outputs["y"], contents.golden[0].outputs["y"])
    assert os.access(bundle.root / "build.sh", os.X_OK)
    assert bundle.work == tmp_path / "small.vitc.local"
    # Nothing but the bundle is left.
    assert [entry.name for entry in tmp_path.iterdir()] == ["small.vitc"]


@pytest.mark.parametrize("form", FORMS)
def test_external_data_travels_with_the_model(form: str, external: BundleContents, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b", external, form)  # type: ignore[arg-type]
    assert (bundle.root / "model.onnx.data").read_bytes() == np.full(4, 2.0, np.float32).tobytes()


def test_a_read_file_is_unpacked_for_as_long_as_the_bundle_lives(contents: BundleContents, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b.vitc", contents, "file")
    root = bundle.root
    assert root.is_dir()
    assert root != bundle.path
    del bundle
    assert not root.exists()


@pytest.mark.parametrize("form", FORMS)
def test_the_same_contents_are_the_same_bytes(form: str, contents: BundleContents, tmp_path: Path) -> None:
    paths = [tmp_path / "one", tmp_path / "two"]
    for path in paths:
        write_bundle(path, contents, form)  # type: ignore[arg-type]
    if form == "file":
        assert paths[0].read_bytes() == paths[1].read_bytes()
    else:
        assert (paths[0] / "manifest.json").read_bytes() == (paths[1] / "manifest.json").read_bytes()


@pytest.mark.parametrize("old", FORMS)
@pytest.mark.parametrize("new", FORMS)
def test_a_bundle_replaces_a_bundle(old: str, new: str, contents: BundleContents, tmp_path: Path) -> None:
    path = tmp_path / "b"
    write_bundle(path, contents, old)  # type: ignore[arg-type]
    write_bundle(path, replace(contents, pipeline="tile-attention"), new)  # type: ignore[arg-type]
    assert read_bundle(path).manifest.pipeline == "tile-attention"
    assert [entry.name for entry in tmp_path.iterdir()] == ["b"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("step", ["_fill", "publish"])
def test_a_failed_write_keeps_what_was_there(
    form: str, step: str, contents: BundleContents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "b"
    write_bundle(path, contents, form)  # type: ignore[arg-type]

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(write, step, fail)
    with pytest.raises(BundleError, match=r"the bundle cannot be saved at .*: disk full"):
        write_bundle(path, replace(contents, pipeline="other"), form)  # type: ignore[arg-type]
    assert read_bundle(path).manifest.pipeline == contents.pipeline
    assert [entry.name for entry in tmp_path.iterdir()] == ["b"]


def test_a_folder_stays_where_it_cannot_be_replaced_in_one_step(
    contents: BundleContents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "b"
    write_bundle(path, contents)

    def cannot(one: Path, other: Path) -> None:
        raise OSError(22, "this file system can't put a folder in another's place in one step", str(other))

    monkeypatch.setattr("vitc.files.saving.exchange", cannot)
    monkeypatch.setattr(write, "exchange", cannot)
    with pytest.raises(BundleError, match="in one step"):
        write_bundle(path, replace(contents, pipeline="other"))
    with pytest.raises(BundleError, match="in one step"):
        check_destination(path)
    check_destination(tmp_path / "another")
    assert read_bundle(path).manifest.pipeline == contents.pipeline


def test_what_is_not_a_bundle_is_never_replaced(contents: BundleContents, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "cat.jpg").write_bytes(b"cat")
    file = tmp_path / "thesis.txt"
    file.write_text("chapter 1")
    link = tmp_path / "link"
    link.symlink_to(folder)
    for path in (folder, file, link):
        with pytest.raises(BundleError, match="exists and is not a vitc bundle; give another path"):
            write_bundle(path, contents)
        with pytest.raises(BundleError, match="exists and is not a vitc bundle; give another path"):
            check_destination(path)
    assert (folder / "cat.jpg").read_bytes() == b"cat"
    assert file.read_text() == "chapter 1"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model": Path("nowhere.onnx")},
            "give nowhere.onnx for the file 'model.onnx'; there is no such file",
        ),
        (
            {"plugin": {"../evil.sh": b""}},
            "names the file 'plugin/../evil.sh'; a bundle's files have relative",
        ),
        ({"plugin": {"a/con.txt": b""}}, "names the file 'plugin/a/con.txt'"),
        ({"external_data": {"model.onnx": Path(__file__)}}, "give the file 'model.onnx' twice"),
        ({"external_data": {"manifest.json": Path(__file__)}}, "give the file 'manifest.json' twice"),
        ({"model": b"x" * 9}, "model.onnx is damaged: not an ONNX model"),
        ({"model": b""}, "an ONNX model is not empty, this file has 0 bytes"),
        ({"inputs": (), "golden": ()}, "at least one input and one output, got 0 and 1"),
        ({"dims": {}}, "input 'x' has the dynamic dimension 'batch'; the bundle has a range for: (none)"),
        ({"structure": {"kind": "leaf", "name": "z"}}, "the output structure names 'z'; the outputs are: y"),
        (
            {"golden": (Golden({"z": np.zeros(1)}, {}),)},
            "golden pair 0 has the inputs ['z']; the model has ['x']",
        ),
        ({"target": {"name": {1, 2}}}, "the contents of a manifest must be JSON: {1, 2} is a set"),
        ({"target": {"clock": float("nan")}}, "the contents of a manifest must be JSON"),
    ],
)
def test_contents_that_contradict_each_other(
    change: dict[str, object], message: str, contents: BundleContents, tmp_path: Path
) -> None:
    with pytest.raises(BundleError) as caught:
        write_bundle(tmp_path / "b", replace(contents, **change))  # type: ignore[arg-type]
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_missing_external_data_is_named(external: BundleContents, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"keeps weights in 'model.onnx.data'; external_data gives: \(none\)"):
        write_bundle(tmp_path / "b", replace(external, external_data={}))


def test_an_unknown_form(contents: BundleContents, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="a bundle's form is 'folder' or 'file', got 'tar'"):
        write_bundle(tmp_path / "b", contents, "tar")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Dim(0, 4), "1 <= min <= max, got min 0, max 4"),
        (lambda: Dim(5, 4), "1 <= min <= max, got min 5, max 4"),
        (lambda: TensorInfo("", "float32", (1,)), "needs a name, got ''"),
        (
            lambda: TensorInfo("x", "bfloat16", (1,)),
            "'x' has dtype 'bfloat16'; a bundle knows: float32, float16",
        ),
        (lambda: TensorInfo("x", "float32", (0,)), "has the dimension 0 in [0]"),
        (lambda: TensorInfo("x", "float32", (-1, 2)), "has the negative dimension -1 in [-1, 2]"),
        (lambda: TensorInfo("x", "float32", (True,)), "has the dimension True in [True]"),
        (lambda: VersionRange("ten", "11"), "numbers with dots between, like 10.3; got 'ten'"),
        (lambda: VersionRange("11", "10.3"), "must have min < below, got min 11, below 10.3"),
        (lambda: Tolerance(cosine=2.0), "cosine lies in [-1, 1], got 2.0"),
        (lambda: Tolerance(relative=float("nan")), "relative error is at least 0, got nan"),
    ],
)
def test_records_refuse_nonsense(make: object, message: str) -> None:
    with pytest.raises(BundleError) as caught:
        make()  # type: ignore[operator]
    assert message in str(caught.value)


def test_version_ranges() -> None:
    accepted = VersionRange("10.3", "12")
    assert [v for v in ("10.2.9", "10.3.0.26", "10.16.1", "11.4.1rc1", "12.0", "x") if v in accepted] == [
        "10.3.0.26",
        "10.16.1",
        "11.4.1rc1",
    ]
    assert str(accepted) == ">=10.3,<12"


def test_structures_come_back() -> None:
    leaf = {"kind": "leaf", "name": "a"}
    tree = {
        "kind": "dataclass",
        "type": "transformers:Output",
        "items": {
            "pair": {"kind": "tuple", "items": [leaf, {"kind": "constant", "value": None}]},
            "more": {"kind": "list", "items": [{"kind": "dict", "items": {"k": leaf}}]},
        },
    }
    assert rebuild(tree, {"a": 7}) == {"pair": (7, None), "more": [{"k": 7}]}
    assert rebuild(tree, {"a": 7}, make=lambda kind, fields: (kind, sorted(fields))) == (
        "transformers:Output",
        ["more", "pair"],
    )


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"kind": "set", "items": []}, "structure has the kind 'set'; known kinds: leaf, tuple"),
        ([1], "structure has the kind [1]"),
        ({"kind": "leaf"}, "structure is a leaf with the keys ['kind']; it must have ['kind', 'name']"),
        ({"kind": "leaf", "name": 3}, "structure.name must be an output's name, got 3"),
        ({"kind": "constant", "value": [1]}, "structure.value must be null, a bool, a number or a string"),
        ({"kind": "tuple", "items": {"a": 1}}, "structure.items of a tuple must be a list"),
        ({"kind": "dict", "items": [1]}, "structure.items of a dict must be a mapping"),
        ({"kind": "list", "items": [{"kind": "set"}]}, "structure.items[0] has the kind 'set'"),
    ],
)
def test_structures_refuse_nonsense(tree: object, message: str, contents: BundleContents, tmp_path: Path) -> None:
    with pytest.raises(BundleError) as caught:
        write_bundle(tmp_path / "b", replace(contents, structure=tree))  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_importing_it_imports_neither_torch_nor_onnx() -> None:
    code = "import sys, vitc.bundle, vitc.runtime; print([m for m in ('torch', 'onnx') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
