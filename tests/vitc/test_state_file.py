"""State files: what is written comes back, what was damaged since does not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from vitc import state_file
from vitc.errors import VitcError

TENSORS = {"a": torch.ones(4), "b": torch.tensor(3), "c": torch.zeros(0, 3), "d": torch.ones(3, dtype=torch.bfloat16)}


def test_it_comes_back(tmp_path: Path) -> None:
    state_file.write(tmp_path / "s", TENSORS, {"n": 1})
    tensors, state = state_file.read(tmp_path / "s", "journal", VitcError)
    assert state == {"n": 1}
    assert {name: (t.dtype, t.tolist()) for name, t in tensors.items()} == {
        name: (t.dtype, t.tolist()) for name, t in TENSORS.items()
    }
    assert os.listdir(tmp_path) == ["s"]


def test_every_flipped_byte_and_every_cut_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s"
    state_file.write(path, TENSORS, {"n": 1})
    data = path.read_bytes()
    for at in range(len(data)):
        for broken in (data[:at], data[:at] + bytes([data[at] ^ 0x20]) + data[at + 1 :]):
            path.write_bytes(broken)
            with pytest.raises(VitcError, match="is damaged|is no journal|of format"):
                state_file.read(path, "journal", VitcError)


def test_what_is_not_there_and_what_would_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "nowhere"):
        with pytest.raises(VitcError, match=f"{name} is no journal"):
            state_file.read(tmp_path / name, "journal", VitcError)
