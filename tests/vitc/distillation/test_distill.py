"""vitc.distill: what it learns, what it leaves alone, what it refuses."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import vitc
from vitc import state_file
from vitc.demo.digits import DigitsViT
from vitc.distillation import DistillConfig, Features, Logits
from vitc.errors import DistillError, InputError, MissingDependencyError
from vitc.frontend.capture import capture

IMAGES, LABELS = torch.randn(32, 1, 8, 8), torch.arange(32) % 10
DATA = (IMAGES, LABELS)
SMALL = DistillConfig(batch_size=8)
SHORT = (Features(), Logits(epochs=1))


def _pair(width: int = 16, depth: int = 1) -> tuple[torch.nn.Module, torch.nn.Module]:
    return DigitsViT(width, depth), DigitsViT(24, 2)


def _weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def _sgd(named: list[tuple[str, torch.nn.Parameter]], rate: float) -> torch.optim.Optimizer:
    """Adam would blow up the rounding errors of gradients that are zero, as those of the keys' biases."""
    return torch.optim.SGD([p for _, p in named], lr=rate)


def _same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_a_narrower_student_learns_both_stages() -> None:
    student, teacher = _pair()
    teacher.head.weight.data *= 20
    before = _weights(teacher)
    stages = (Features(epochs=12, rate=1e-2), Logits(epochs=12, rate=1e-2, soft=1.0))
    result = vitc.distill(student, teacher, IMAGES, stages=stages, config=SMALL)
    first, last = ([e.value for e in result.losses if e.stage == s] for s in ("features", "logits"))
    assert len(first) == len(last) == 48
    assert first[-1] < 0.5 * first[0]
    assert last[-1] < 0.5 * last[0]
    assert _same(before, teacher.state_dict())
    assert not student.training
    assert str(result).startswith("features: 48 steps, loss ")


def test_the_stage_on_features_leaves_the_head_alone() -> None:
    student, teacher = _pair()
    head = _weights(student.head)
    vitc.distill(student, teacher, IMAGES, stages=(Features(),), config=SMALL)
    assert _same(head, student.head.state_dict())


def test_a_graph_learns_from_a_graph() -> None:
    teacher = capture(DigitsViT(24, 2).eval(), vitc.load_target("cpu"), IMAGES[:2]).module
    student = capture(DigitsViT(16, 1).eval(), vitc.load_target("cpu"), IMAGES[:2]).module
    before = _weights(student)
    result = vitc.distill(student, teacher, DATA, stages=SHORT, config=SMALL)
    assert len(result.losses) == 8
    assert not torch.equal(before["blocks.0.attn.qkv.weight"], student.state_dict()["blocks.0.attn.qkv.weight"])


def test_a_student_that_shares_weights_gets_its_own() -> None:
    teacher = DigitsViT(16, 1).eval()
    student = capture(teacher, vitc.load_target("cpu"), IMAGES[:2]).module  # over the very same tensors
    before = _weights(teacher)
    vitc.distill(student, teacher, DATA, stages=(Logits(epochs=1, rate=1e-2),), config=SMALL)
    assert _same(before, teacher.state_dict())
    assert not torch.equal(student.state_dict()["head.bias"], before["head.bias"])


def test_accumulated_batches_are_one_large_batch() -> None:
    results = []
    for batch, accumulate in ((16, 1), (4, 4)):
        torch.manual_seed(0)
        student, teacher = _pair()
        config = DistillConfig(batch_size=batch, accumulate=accumulate)
        vitc.distill(student, teacher, DATA, stages=(Logits(epochs=1, rate=0.1),), config=config, optimizer=_sgd)
        results.append(student.state_dict())
    for name, tensor in results[0].items():
        torch.testing.assert_close(tensor, results[1][name], rtol=1e-4, atol=1e-5)


def test_the_best_score_s_weights_win_and_patience_ends_a_stage() -> None:
    student, teacher = _pair()
    seen: list[dict[str, torch.Tensor]] = []
    scores = iter([0.1, 0.9, 0.3, 0.2, 0.5])

    def evaluate(model: torch.nn.Module) -> float:
        assert not model.training
        seen.append(_weights(model))
        return next(scores)

    config = replace(SMALL, evaluate_every=1, patience=2)
    result = vitc.distill(student, teacher, DATA, stages=(Logits(epochs=9),), config=config, evaluate=evaluate)
    assert [entry.value for entry in result.scores] == [0.1, 0.9, 0.3, 0.2]
    assert len(result.losses) == 4
    assert result.best == 0.9
    assert _same(seen[1], student.state_dict())


def test_the_average_is_the_formula_s() -> None:
    steps: list[dict[str, torch.Tensor]] = []

    class Watched(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            super().step()
            steps.append(_weights(student))

    student, teacher = _pair()
    average = _weights(student)
    config = replace(SMALL, ema=0.6)

    def sgd(named: list[tuple[str, torch.nn.Parameter]], rate: float) -> torch.optim.Optimizer:
        return Watched([p for _, p in named], lr=rate)

    vitc.distill(student, teacher, DATA, stages=(Logits(epochs=1, rate=0.1),), config=config, optimizer=sgd)
    for weights in steps:
        average = {name: 0.6 * average[name] + 0.4 * tensor for name, tensor in weights.items()}
    assert len(steps) == 4
    for name, tensor in student.state_dict().items():
        torch.testing.assert_close(tensor, average[name])


def test_same_seed_same_student_and_the_caller_s_randomness_stays() -> None:
    students = []
    for seed in (1, 1, 2):
        torch.manual_seed(0)
        student, teacher = _pair()
        state = torch.get_rng_state()
        vitc.distill(student, teacher, DATA, stages=SHORT, config=replace(SMALL, seed=seed))
        assert torch.equal(state, torch.get_rng_state())
        students.append(student.state_dict())
    assert _same(students[0], students[1])
    assert not _same(students[0], students[2])


def test_frozen_parameters_stay() -> None:
    student, teacher = _pair()
    student.patch.requires_grad_(False)
    before = _weights(student.patch)
    vitc.distill(student, teacher, DATA, stages=SHORT, config=SMALL)
    assert _same(before, student.patch.state_dict())


def test_bf16_where_it_is_asked_for() -> None:
    student, teacher = _pair()
    dtypes = set()
    teacher.head.register_forward_hook(lambda m, a, output: dtypes.add(output.dtype))
    result = vitc.distill(student, teacher, DATA, stages=(Logits(epochs=1),), config=replace(SMALL, precision="bf16"))
    assert torch.bfloat16 in dtypes
    assert student.head.weight.dtype == torch.float32
    assert len(result.losses) == 4


def test_dicts_and_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    student, teacher = _pair()
    batches = [{"x": IMAGES[:8], "labels": LABELS[:8]}] * 3
    result = vitc.distill(student, teacher, batches, stages=SHORT, progress=True)
    assert len(result.losses) == 6
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "logits" in shown.err


def test_nan_names_the_step_and_keeps_the_weights(tmp_path: Path) -> None:
    student, teacher = _pair()
    bad = IMAGES.clone()
    bad[20] = float("nan")
    batches = [(bad[i : i + 8], LABELS[i : i + 8]) for i in range(0, 32, 8)]
    path = tmp_path / "run.safetensors"
    config = replace(SMALL, checkpoint_every=1)
    with pytest.raises(
        DistillError, match=r"loss is nan at step 3 of stage 'logits'; .* weights of step 2; the checkpoint .*run"
    ):
        vitc.distill(student, teacher, batches, stages=(Logits(epochs=1),), config=config, checkpoint=path)
    assert all(bool(tensor.isfinite().all()) for tensor in student.state_dict().values())
    from safetensors.torch import load_file

    assert all(bool(tensor.isfinite().all()) for tensor in load_file(path).values())


def test_another_configuration_does_not_resume(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    student, teacher = _pair()
    vitc.distill(student, teacher, DATA, stages=SHORT, config=SMALL, checkpoint=path)
    for change, message in (
        ({"config": replace(SMALL, seed=4)}, "was made with seed = 0, this call has 4"),
        (
            {"stages": (Features(), Logits(epochs=1, temperature=4.0))},
            r"made with stages\[1\]\.temperature = 2\.0, this call has 4\.0",
        ),
        ({"stages": (Features(),)}, "made with number of stages = 2, this call has 1"),
    ):
        arguments = {"stages": SHORT, "config": SMALL} | change
        with pytest.raises(DistillError, match=message):
            vitc.distill(student, teacher, DATA, checkpoint=path, **arguments)
    with pytest.raises(DistillError, match="made with the teacher's weights = "):
        vitc.distill(student, DigitsViT(24, 2), DATA, stages=SHORT, config=SMALL, checkpoint=path)


def test_a_file_that_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    path.write_bytes(b"nonsense")
    student, teacher = _pair()
    with pytest.raises(DistillError, match="is no distillation checkpoint"):
        vitc.distill(student, teacher, DATA, checkpoint=path)


def test_a_checkpoint_of_another_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as future:
        future.setattr(state_file, "FORMAT", 7)
        state_file.write(tmp_path / "run", {"a": IMAGES}, {})
    student, teacher = _pair()
    with pytest.raises(
        DistillError, match="is a distillation checkpoint of format 7, this vitc reads 2; delete it to begin again"
    ):
        vitc.distill(student, teacher, DATA, checkpoint=tmp_path / "run")


def test_another_state_file_is_no_checkpoint(tmp_path: Path) -> None:
    state_file.write(tmp_path / "run", {"a": IMAGES}, {"batches": 1})
    student, teacher = _pair()
    with pytest.raises(DistillError, match=r"is no distillation checkpoint: it holds \['batches'\]"):
        vitc.distill(student, teacher, DATA, checkpoint=tmp_path / "run")


def test_layers_of_other_tokens_are_refused() -> None:
    student, teacher = _pair()
    with pytest.raises(
        DistillError, match=r"student's layer 'blocks' computes \[8, 17, 16\], the teacher's 'head' \[8, 10\]"
    ):
        vitc.distill(student, teacher, DATA, stages=(Features(layers=(("blocks", "head"),)),), config=SMALL)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"student": 3}, "the student must be a torch.nn.Module, got int"),
        ({"teacher": len}, "the teacher must be a torch.nn.Module"),
        ({"stages": ()}, "stages is empty"),
        ({"optimizer": lambda named, rate: 3}, "optimizer returned a int"),
        ({"evaluate": lambda model: float("nan")}, "evaluate returned nan"),
    ],
)
def test_arguments_that_cannot_be(arguments: dict[str, Any], message: str) -> None:
    student, teacher = _pair()
    given = {"student": student, "teacher": teacher, "data": DATA, "stages": SHORT, "config": SMALL} | arguments
    with pytest.raises(InputError, match=message):
        vitc.distill(**given)


def test_one_module_as_both() -> None:
    student, _ = _pair()
    with pytest.raises(InputError, match=r"one module; give copy\.deepcopy"):
        vitc.distill(student, student, DATA)


def test_a_frozen_student() -> None:
    student, teacher = _pair()
    with pytest.raises(InputError, match=r"no parameter that requires gradients; call requires_grad_\(\)"):
        vitc.distill(student.requires_grad_(False), teacher, DATA)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Features(layers=()), "at least one layer"),
        (lambda: Features(epochs=0), "stage features: epochs is 0"),
        (lambda: Logits(temperature=0), "temperature is 0"),
        (lambda: Logits(soft=1.5), r"soft is 1\.5"),
        (lambda: DistillConfig(accumulate=0), "accumulate is 0; it must be 1 or more"),
        (lambda: DistillConfig(precision="fp8"), "precision is 'fp8'; it is one of auto, fp32, bf16"),
        (lambda: DistillConfig(ema=1.0), "ema is 1"),
        (lambda: DistillConfig(warmup=1.0), "warmup is 1"),
        (lambda: DistillConfig(clip=0.0), "clip is 0"),
    ],
)
def test_options_that_cannot_be(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_several_processes_need_accelerate(monkeypatch: pytest.MonkeyPatch) -> None:
    from vitc.distillation import workers

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(workers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'vitc\[distill\]'"):
        vitc.distill(*_pair(), DATA)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there Accelerate waits for the other process")
def test_processes_that_accelerate_does_not_join_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    state = pytest.importorskip("accelerate.state")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    state.AcceleratorState._reset_state(reset_partial_state=True)
    try:
        with pytest.raises(
            DistillError, match="2 processes were launched and Accelerate joins 1 of them on cpu: .* ACCELERATE_USE_CPU"
        ):
            vitc.distill(*_pair(), DATA)
    finally:
        state.AcceleratorState._reset_state(reset_partial_state=True)


def test_a_copy_of_the_teacher_begins_without_a_loss() -> None:
    teacher = DigitsViT(16, 2)
    result = vitc.distill(copy.deepcopy(teacher), teacher, IMAGES, stages=(Features(), Logits(soft=1)), config=SMALL)
    assert result.losses[0].value < 1e-9
