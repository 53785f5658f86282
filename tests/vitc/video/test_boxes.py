"""From arrays to boxes: against transformers' post-processing, by hand, and at the edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vitc.calibration.preprocessing import Placement, Preprocessing
from vitc.frontend.torchvision_import import ensure_torchvision_imports
from vitc.task import Classification, Detection
from vitc.video.boxes import Detections, detections, iou, located, ranked, suppressed

WHOLE = Placement((1.0, 1.0), (0.0, 0.0))


def _outputs(labels: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    middles, sizes = rng.uniform(0.2, 0.8, (2, 20, 2)), rng.uniform(0.05, 0.3, (2, 20, 2))
    boxes = np.concatenate([middles, sizes], -1).astype(np.float32)
    return {"logits": rng.normal(0, 2, (2, 20, labels)).astype(np.float32), "boxes": boxes}


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
def test_it_is_what_transformers_makes_of_the_outputs(score: str) -> None:
    transformers = pytest.importorskip("transformers")
    ensure_torchvision_imports()
    outputs = _outputs(5)
    kind = transformers.DetrImageProcessorPil if score == "softmax" else transformers.RTDetrImageProcessorPil
    given = transformers.models.detr.modeling_detr.DetrObjectDetectionOutput(
        logits=torch.from_numpy(outputs["logits"]), pred_boxes=torch.from_numpy(outputs["boxes"])
    )
    sizes = [(640, 480), (100, 300)]
    want = kind().post_process_object_detection(given, 0.4, [(h, w) for w, h in sizes])
    stretch = Preprocessing((64, 96), fit="stretch")
    task = Detection(score=score, most=20)
    ours = located(task, outputs, sizes, [stretch.placement(*s) for s in sizes], (64, 96), 0.4)
    for got, theirs in zip(ours, want, strict=True):
        order = np.argsort(-theirs["scores"].numpy(), kind="stable")
        np.testing.assert_array_equal(got.labels, theirs["labels"].numpy()[order])
        np.testing.assert_allclose(got.scores, theirs["scores"].numpy()[order], rtol=1e-5)
        np.testing.assert_allclose(got.boxes, theirs["boxes"].numpy()[order], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("fit", ["crop", "stretch", "letterbox"])
def test_a_box_comes_back_to_the_pictures_own_pixels(fit: str) -> None:
    picture, size = (640, 360), (96, 128)
    placement = Preprocessing(size, fit=fit).placement(*picture)
    true = np.array([300.0, 150.0, 420.0, 260.0])
    put = true * (placement.scale * 2) + np.array(placement.offset * 2)
    task = Detection(form="xyxy", unit="pixel")
    outputs = {"logits": np.full((1, 1, 1), 9, np.float32), "boxes": put.reshape(1, 1, 4).astype(np.float32)}
    [found] = located(task, outputs, [picture], [placement], size, 0.5)
    np.testing.assert_allclose(found.boxes[0], true, atol=1e-2)


def test_boxes_are_cut_at_the_picture_and_empty_ones_left_out() -> None:
    boxes = np.array([[[-5, -5, 4, 4], [12, 0, 20, 4], [3, 3, 3, 9]]], np.float32)
    task = Detection(form="xyxy", unit="pixel")
    outputs = {"logits": np.full((1, 3, 1), 9, np.float32), "boxes": boxes}
    [found] = located(task, outputs, [(10, 10)], [WHOLE], (10, 10), 0.5)
    assert found.boxes.tolist() == [[0, 0, 4, 4]]


def test_overlapping_boxes_of_one_label_give_way_to_the_best() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [1, 0, 11, 10], [50, 50, 60, 60]], np.float32)
    found = detections(boxes, np.array([0.9, 0.8, 0.7, 0.6], np.float32), np.array([0, 0, 1, 0]))
    assert suppressed(found, 0.5).tolist() == [0, 2, 3]
    assert suppressed(found, 0.5, by_label=False).tolist() == [0, 3]
    assert suppressed(found, 0.9).tolist() == [0, 1, 2, 3]


def test_no_boxes_stay_no_boxes() -> None:
    outputs = {"logits": np.full((1, 4, 2), -9, np.float32), "boxes": np.zeros((1, 4, 4), np.float32)}
    for task in (Detection(), Detection(overlap=0.5), Detection(score="softmax")):
        [found] = located(task, outputs, [(10, 10)], [WHOLE], (10, 10), 0.9)
        assert isinstance(found, Detections)
        assert len(found) == 0


def test_iou_against_the_areas() -> None:
    a, b = np.array([[0, 0, 2, 2]], np.float32), np.array([[1, 1, 3, 3], [5, 5, 6, 6], [4, 4, 4, 4]], np.float32)
    np.testing.assert_allclose(iou(a, b), [[1 / 7, 0, 0]], rtol=1e-6)


def test_labels_are_ranked_by_score() -> None:
    logits = np.log(np.array([[0.2, 0.5, 0.3]], np.float32))
    [softmax] = ranked(Classification(), logits, 2)
    assert softmax.labels.tolist() == [1, 2]
    np.testing.assert_allclose(softmax.scores, [0.5, 0.3], rtol=1e-5)
    [sigmoid] = ranked(Classification(score="sigmoid"), np.array([[0.0, 500.0, -500.0]], np.float32), 5)
    assert sigmoid.scores.tolist() == [1.0, 0.5, 0.0]
