"""The task of a compilation: the user's must fit, the model's own config's is kept where it fits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import vitc
from vitc.errors import InputError

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Flat(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(192, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x.flatten(1))


def test_a_given_task_and_its_preprocessing_travel_in_the_bundle(tmp_path: Path) -> None:
    task = vitc.Classification(["a", "b", "c"], preprocessing=vitc.Preprocessing((8, 8), fit="stretch"))
    bundle = vitc.compile(Flat().eval(), example_inputs=X, task=task).save(tmp_path / "b")
    assert bundle.manifest.task == vitc.Classification(["a", "b", "c"])
    assert bundle.manifest.inputs[0].preprocessing == task.preprocessing.to_dict()  # type: ignore[union-attr]


def test_a_given_task_that_does_not_fit_is_refused_before_the_passes() -> None:
    with pytest.raises(InputError, match="the task has 2 labels, the model gives 3 scores"):
        vitc.plan(Flat().eval(), example_inputs=X, task=vitc.Classification(["a", "b"]))


def test_what_is_no_task_is_refused() -> None:
    with pytest.raises(InputError, match=r"task must be a vitc\.Classification or a vitc\.Detection, got str"):
        vitc.plan(Flat().eval(), example_inputs=X, task="classification")  # type: ignore[arg-type]


def test_a_config_that_speaks_of_another_head_is_passed_over() -> None:
    model = Flat().eval()
    model.pretrained_cfg, model.num_classes = {"num_classes": 5, "label_names": list("abcde")}, 5  # type: ignore[assignment]
    assert vitc.plan(model, example_inputs=X).program.task is None
