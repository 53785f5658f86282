"""A run killed with SIGKILL goes on to the very weights of one that was left alone."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vitc import state_file
from vitc.errors import DistillError

SCRIPT = Path(__file__).with_name("runs.py")
spec = importlib.util.spec_from_file_location("distillation_runs", SCRIPT)
assert spec is not None
assert spec.loader is not None
runs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(runs)


def _script(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, env=environment, timeout=300
    )


# 48 images an epoch, and 8 to try the shapes at the beginning of a stage: in the middle of each stage.
@pytest.mark.parametrize(("deadly", "stage", "step"), [(8 + 44, 0, 2), (8 + 48 + 8 + 80, 1, 4)])
def test_killed_run_ends_as_if_it_had_not_been(deadly: int, stage: int, step: int, tmp_path: Path) -> None:
    checkpoint, output = tmp_path / "run.safetensors", tmp_path / "student.safetensors"
    killed = _script(str(checkpoint), str(output), str(deadly))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not output.exists()
    state = state_file.read(checkpoint, "distillation checkpoint", DistillError)[1]["state"]
    assert (state["stage"], state["step"]) == (stage, step)

    resumed, whole = runs.run(checkpoint), runs.run(None)
    assert resumed.losses == whole.losses
    assert resumed.scores == whole.scores
    for name, tensor in whole.student.state_dict().items():
        assert torch.equal(resumed.student.state_dict()[name], tensor), name


def test_finished_run_is_not_run_again(tmp_path: Path) -> None:
    first = runs.run(tmp_path / "run.safetensors")
    again = runs.run(tmp_path / "run.safetensors", deadly=0)  # drawing one image would kill this process
    assert again.losses == first.losses
    assert again.best == first.best
    for name, tensor in first.student.state_dict().items():
        assert torch.equal(again.student.state_dict()[name], tensor), name


@pytest.mark.parametrize(
    "launcher",
    [
        # The module behind `accelerate launch`: the command itself imports timm, which a broken torchvision stops.
        ("accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--main_process_port=0"),
        ("torch.distributed.run", "--standalone", "--nproc-per-node=2"),
    ],
    ids=["accelerate", "torchrun"],
)
def test_two_processes_train_as_one_with_twice_the_batch(launcher: tuple[str, ...], tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    output = tmp_path / "student.safetensors"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-m", *launcher, str(SCRIPT), "--together", str(output)],
        capture_output=True, text=True, env=environment, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    alone = runs.together(accumulate=2).student.state_dict()
    for name, tensor in load_file(output).items():
        torch.testing.assert_close(
            tensor, alone[name], rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
