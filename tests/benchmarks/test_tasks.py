"""The benchmarks' own tasks: seeded drawings, and scores against scikit-learn's."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import figures
import tasks


def test_same_seed_same_drawings() -> None:
    first, again, other = figures.classified(6, 1), figures.classified(6, 1), figures.classified(6, 2)
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])
    assert first[0].shape == (6, 3, 64, 64)
    assert first[0].dtype == np.float32


def test_areas_of_outlines_are_those_of_geometry() -> None:
    axis = np.linspace(-1.5, 1.5, 601, dtype=np.float32)
    x, y = np.meshgrid(axis, axis)
    areas = {name: figures.inside(kind, x, y).mean() * 9 for kind, (name, _, _) in enumerate(figures.KINDS)}
    assert areas["disc"] == pytest.approx(np.pi * 0.85**2, rel=0.01)
    assert areas["square"] == pytest.approx(2.0, rel=0.01)
    assert areas["triangle"] == pytest.approx(3 * np.sqrt(3) / 4, rel=0.01)
    assert areas["pentagon"] == pytest.approx(2.5 * np.sin(2 * np.pi / 5), rel=0.01)


def test_segments_show_every_class_of_the_mask() -> None:
    images, labels = figures.segmented(40, 1)
    assert images.shape == (40, 3, 64, 64)
    assert set(np.unique(labels)) == set(range(6))


def test_scores_against_scikit_learn() -> None:
    from sklearn.metrics import accuracy_score, jaccard_score

    logits, labels = torch.randn(3, 4, 8, 8), torch.randint(0, 4, (3, 8, 8))
    found = logits.argmax(1).flatten()
    assert tasks.mean_iou(logits, labels) == pytest.approx(jaccard_score(labels.flatten(), found, average="macro"))
    assert tasks.accuracy(logits, labels) == pytest.approx(accuracy_score(labels.flatten(), found))


def test_a_model_is_trained_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "CACHE", tmp_path)
    calls = []
    monkeypatch.setattr(tasks.digits, "train", lambda *a, **k: calls.append(k) or tasks.digits.DigitsViT().eval())
    first, second = tasks.load("digits", seed=3), tasks.load("digits", seed=3)
    assert calls == [{"seed": 3}]
    assert torch.equal(first.model.head.weight, second.model.head.weight)
    assert first.metric(first.model) == second.metric(second.model)


def test_tuning_lowers_the_loss() -> None:
    images, labels = torch.randn(64, 3, 64, 64), torch.arange(64) % 2
    model = tasks.vit(width=64, depth=1, classes=2)
    tasks.fit(model, (images, labels), epochs=6)
    assert not model.training
    with torch.no_grad():
        assert torch.nn.functional.cross_entropy(model(images), labels) < 0.6
