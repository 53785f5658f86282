"""The two losses against their formulas, spelled another way."""

from __future__ import annotations

import pytest
import torch

from vitc.distillation.config import Logits
from vitc.distillation.losses import features_loss, logits_loss
from vitc.errors import DistillError


def _softmax(values: torch.Tensor) -> torch.Tensor:
    return values.exp() / values.exp().sum(1, keepdim=True)


@pytest.mark.parametrize("shape", [(5, 3), (2, 3, 4, 4)])
def test_soft_labels_are_hinton_s(shape: tuple[int, ...]) -> None:
    student, teacher = torch.randn(shape), torch.randn(shape)
    p, q = _softmax(teacher / 3), _softmax(student / 3)
    want = 9 * (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(logits_loss(Logits(temperature=3, soft=1), student, teacher, None), want)


@pytest.mark.parametrize("shape", [(5, 3), (2, 3, 4, 4)])
def test_hard_labels_are_cross_entropy(shape: tuple[int, ...]) -> None:
    student, teacher = torch.randn(shape), torch.randn(shape)
    labels = torch.randint(0, 3, (shape[0], *shape[2:]))
    want = -_softmax(student).log().gather(1, labels[:, None]).mean()
    torch.testing.assert_close(logits_loss(Logits(soft=0), student, teacher, labels), want)


def test_both_are_mixed_by_share() -> None:
    student, teacher, labels = torch.randn(5, 3), torch.randn(5, 3), torch.randint(0, 3, (5,))
    soft, hard = (logits_loss(Logits(soft=share), student, teacher, labels) for share in (1, 0))
    torch.testing.assert_close(logits_loss(Logits(soft=0.75), student, teacher, labels), 0.75 * soft + 0.25 * hard)


def test_outputs_of_any_structure() -> None:
    first, second = torch.randn(2, 5, 3), torch.randn(2, 5, 3)
    one, two = (logits_loss(Logits(soft=1), first[i], second[i], None) for i in range(2))
    both = logits_loss(Logits(soft=1), {"a": first[0], "b": first[1]}, (second[0], second[1]), None)
    torch.testing.assert_close(both, (one + two) / 2)


def test_features_that_learned_nothing_score_one() -> None:
    teacher = 5 + 3 * torch.randn(100, 7, 8)
    mean = teacher.mean().expand_as(teacher)
    assert float(features_loss([mean], [teacher])) == pytest.approx(1.0, rel=1e-3)
    assert float(features_loss([mean, teacher], [teacher, teacher])) == pytest.approx(0.5, rel=1e-3)


def test_other_outputs_are_refused() -> None:
    with pytest.raises(DistillError, match=r"student returns tensors of shapes \[\[2, 3\]\], the teacher \[\[2, 4\]\]"):
        logits_loss(Logits(), torch.randn(2, 3), torch.randn(2, 4), None)


def test_missing_labels_are_refused() -> None:
    with pytest.raises(DistillError, match=r"weighs hard labels with 0\.5 and the data has none.*Logits\(soft=1\.0\)"):
        logits_loss(Logits(soft=0.5), torch.randn(2, 3), torch.randn(2, 3), None)
