"""Signatures: what minisign makes and reads, over the manifest."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import vitc
from vitc.bundle import BundleContents, read_bundle, sign, verify, write_bundle
from vitc.errors import BundleError, InputError, MissingDependencyError

minisign = pytest.importorskip("minisign")

FORMS = ["folder", "file"]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    for name in ("maker", "other"):
        pair = minisign.KeyPair.generate()
        (folder / f"{name}.pub").write_bytes(bytes(pair.public_key) + b"\n")
        (folder / f"{name}.key").write_bytes(bytes(pair.secret_key) + b"\n")
        if name == "maker":
            pair.secret_key.encrypt("secret", opslimit=32768, memlimit=1 << 24)
            (folder / "locked.key").write_bytes(bytes(pair.secret_key) + b"\n")
    return folder


@pytest.mark.parametrize("form", FORMS)
def test_a_signed_bundle_is_loaded_and_no_other(
    form: str, contents: BundleContents, keys: Path, tmp_path: Path
) -> None:
    path = write_bundle(tmp_path / "b", contents, form).path  # type: ignore[arg-type]
    with pytest.raises(BundleError, match=r"is not signed: there is no b\.minisig beside it"):
        vitc.load(path, "onnxruntime", verify_key=keys / "maker.pub")
    assert sign(path, keys / "maker.key") == tmp_path / "b.minisig"
    with vitc.load(path, "onnxruntime", verify_key=keys / "maker.pub") as runner:
        assert runner.self_check().passed
    text = (keys / "maker.pub").read_text().splitlines()[1]
    assert verify(read_bundle(path), text).startswith("vitc ")
    with pytest.raises(BundleError, match=r"is not signed with the key .*other.pub"):
        vitc.load(path, "onnxruntime", verify_key=keys / "other.pub")


def test_the_signature_is_one_for_folder_and_file_and_plain_minisign(
    contents: BundleContents, keys: Path, tmp_path: Path
) -> None:
    folder, file = (write_bundle(tmp_path / form, contents, form) for form in FORMS)  # type: ignore[arg-type]
    signature = sign(folder.path, keys / "maker.key")
    signature.rename(tmp_path / "file.minisig")
    verify(file, keys / "maker.pub")
    minisign.PublicKey.from_file(keys / "maker.pub").verify_file(
        folder.root / "manifest.json", minisign.Signature.from_file(tmp_path / "file.minisig")
    )


def test_a_changed_bundle_is_no_longer_signed(contents: BundleContents, keys: Path, tmp_path: Path) -> None:
    """Whoever rewrites all hashes makes a bundle that reads; not one that is signed."""
    path = write_bundle(tmp_path / "b", contents).path
    sign(path, keys / "maker.key")
    write_bundle(path, BundleContents(**{**vars(contents), "pipeline": "forged"}))
    bundle = read_bundle(path)
    assert bundle.manifest.pipeline == "forged"
    with pytest.raises(BundleError, match="is not signed with the key"):
        verify(bundle, keys / "maker.pub")


def test_what_was_verified_is_what_was_read(contents: BundleContents, keys: Path, tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "b", contents).path
    bundle = read_bundle(path)
    sign(path, keys / "maker.key")
    body = json.loads((path / "manifest.json").read_bytes())
    (path / "manifest.json").write_text(json.dumps({**body, "pipeline": "swapped"}))
    assert verify(bundle, keys / "maker.pub")  # the manifest in memory, whatever lies there now


def test_a_key_with_a_password(contents: BundleContents, keys: Path, tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "b", contents).path
    with pytest.raises(InputError, match="locked.key has a password, and none was given"):
        sign(path, keys / "locked.key")
    with pytest.raises(InputError, match="locked.key does not sign: wrong password"):
        sign(path, keys / "locked.key", lambda: "guess")
    sign(path, keys / "locked.key", lambda: "secret")
    verify(read_bundle(path), keys / "maker.pub")


@pytest.mark.parametrize("content", [b"", b"key\nkey\n", b"\xff" * 200, b"x" * (1 << 15)])
def test_what_is_no_key_and_no_signature(content: bytes, contents: BundleContents, keys: Path, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b", contents)
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(InputError, match="is no secret key of minisign"):
        sign(bundle.path, tmp_path / "key")
    for key in (tmp_path / "key", tmp_path / "nowhere", "a\0", "RW" + "A" * 53):
        with pytest.raises(InputError, match="is no public key of minisign"):
            verify(bundle, key)
    (tmp_path / "b.minisig").write_bytes(content)
    with pytest.raises(BundleError, match="is no signature of minisign"):
        verify(bundle, keys / "maker.pub")


def test_a_pipe_beside_the_bundle_is_not_waited_for(contents: BundleContents, keys: Path, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b", contents)
    os.mkfifo(tmp_path / "b.minisig")
    with pytest.raises(BundleError, match="is not a plain file"):
        verify(bundle, keys / "maker.pub")


def test_without_the_package(
    contents: BundleContents, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    bundle = write_bundle(tmp_path / "b", contents)
    monkeypatch.setitem(sys.modules, "minisign", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'vitc\[sign\]'"):
        verify(bundle, keys / "maker.pub")
