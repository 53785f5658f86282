"""Whose a file is, and the seal of one user on one machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vitc.ownership import is_sealed, own_folder, seal, why_not_ours


def test_files_that_others_could_have_written(tmp_path: Path) -> None:
    path = tmp_path / "f"
    assert "can't be looked at" in str(why_not_ours(path))
    path.write_bytes(b"")
    path.chmod(0o600)
    assert why_not_ours(path) is None
    path.chmod(0o620)
    assert "f can be written by others: chmod go-w" in str(why_not_ours(path))
    path.chmod(0o600)
    (tmp_path / "link").symlink_to(path)
    assert "is a link, or no plain file" in str(why_not_ours(tmp_path / "link"))
    tmp_path.chmod(0o777)
    assert f"{tmp_path} can be written by others" in str(why_not_ours(path))
    tmp_path.chmod(0o1777)
    assert why_not_ours(path) is None


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_files_of_another_user(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"")
    os.chown(path, 12345, -1)
    assert "belongs to the user 12345, this is 0" in str(why_not_ours(path))


def test_a_seal_is_one_user_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITC_CACHE", str(tmp_path / "mine"))
    made = seal(b"data")
    assert is_sealed(b"data", made)
    assert not is_sealed(b"dara", made)
    assert (tmp_path / "mine" / "key").stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv("VITC_CACHE", str(tmp_path / "theirs"))
    assert not is_sealed(b"data", made)
    (tmp_path / "theirs" / "key").write_bytes(b"short")
    with pytest.raises(OSError, match="key is damaged; remove it"):
        seal(b"data")
    (tmp_path / "theirs" / "key").chmod(0o666)
    with pytest.raises(PermissionError, match="can be written by others"):
        seal(b"data")


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("no home")

    monkeypatch.delenv("VITC_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(OSError, match="this user has no home folder"):
        own_folder()
