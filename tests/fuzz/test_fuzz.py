"""A short run of every fuzzer, and proof that the harness counts what it should. Long ones: `make fuzz HOURS=1`."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from attacks import ATTACKS, warm_up
from harness import WrongAccept, attack

from vitc.errors import InputError

#: Findings in the ONNX file itself are the gate's to answer: tests/lowering/gate.
SHORT = {"manifest": 40, "contents": 0}


@pytest.mark.parametrize("kind", [kind for kind in ATTACKS if SHORT.get(kind) != 0])
def test_a_short_run_finds_nothing(kind: str) -> None:
    warm_up(kind)
    found = attack(kind, ATTACKS[kind], seed=0, count=SHORT.get(kind, 120))
    assert found.findings == []
    assert found.tried == SHORT.get(kind, 120)
    assert found.refused > 0


def test_the_harness_counts_what_it_should(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.SECONDS", 1)
    monkeypatch.setattr("harness.MEMORY", 64 << 20)
    number = {random.Random(f"0/{i}").random(): i for i in range(8)}

    def attempt(rng: random.Random, work: Path) -> None:
        match number[rng.random()]:
            case 0:
                raise InputError("refused")
            case 1:
                raise KeyError("crash")
            case 2:
                raise WrongAccept("wrong")
            case 3:
                os.kill(os.getpid(), signal.SIGKILL)
            case 4:
                time.sleep(60)
            case 5:
                assert len(bytearray(256 << 20)) > 0
            case 6:
                (work / ".." / "escaped").touch()

    found = attack("self", attempt, seed=0, count=8)
    assert (found.tried, found.taken, found.refused) == (8, 2, 1)
    assert (found.crash, found.wrong, found.died, found.hang, found.memory, found.outside) == (1,) * 6
    assert [at for at, _ in found.findings] == [1, 2, 3, 4, 5, 7]
    assert attack("self", attempt, seed=0, count=1, first=1).crash == 1  # the same one again
