"""Arrays to answers: from a model's outputs to labels and boxes of the picture, by the bundle's task. NumPy alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from vitc.calibration.preprocessing import Placement
from vitc.task import Classification, Detection, Task, label_of

Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]
Ints: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Ranking:
    """The best labels of one picture, the best first. `labels` [k] int64 and `scores` [k] float32."""

    labels: Ints
    scores: Floats

    def to_dict(self, task: Task) -> dict[str, Any]:
        """Plain data with names."""
        pairs = zip(self.labels.tolist(), self.scores.tolist(), strict=True)
        return {"labels": [{"label": label_of(task, n), "number": n, "score": round(score, 6)} for n, score in pairs]}


@dataclass(frozen=True)
class Detections:
    """The boxes of one picture, the best first: `boxes` [n, 4] float32 x0 y0 x1 y1 in pixels of the picture, `scores`
    [n] float32, `labels` [n] int64, and `ids` [n] int64 of the tracks they belong to, -1 for none."""

    boxes: Floats
    scores: Floats
    labels: Ints
    ids: Ints

    def __len__(self) -> int:
        return len(self.boxes)

    def take(self, chosen: np.ndarray[Any, Any]) -> Detections:
        """Those that `chosen`, places or a mask, picks."""
        return Detections(self.boxes[chosen], self.scores[chosen], self.labels[chosen], self.ids[chosen])

    def to_dict(self, task: Task) -> dict[str, Any]:
        """Plain data with names."""
        rows = zip(self.boxes.tolist(), self.scores.tolist(), self.labels.tolist(), self.ids.tolist(), strict=True)
        return {
            "boxes": [
                {
                    "label": label_of(task, number), "number": number, "score": round(score, 6),
                    "box": [round(v, 2) for v in box], **({"id": i} if i >= 0 else {}),
                }
                for box, score, number, i in rows
            ]
        }  # fmt: skip


# Boxes that are compared with each other: a bad model must not cost seconds.
_CANDIDATES = 1000

Answer: TypeAlias = Ranking | Detections


def detections(boxes: Floats, scores: Floats, labels: Ints, ids: Ints | None = None) -> Detections:
    """Detections of these, without tracks where no ids are given."""
    return Detections(boxes, scores, labels, np.full(len(boxes), -1, np.int64) if ids is None else ids)


def ranked(task: Classification, logits: Floats, top: int) -> list[Ranking]:
    """The `top` best labels of each picture; `logits` [n, labels]."""
    scores = _softmax(logits) if task.score == "softmax" else _sigmoid(logits)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    return [Ranking(o.astype(np.int64), s[o]) for o, s in zip(order, scores, strict=True)]


def located(
    task: Detection,
    outputs: Mapping[str, Floats],
    sizes: list[tuple[int, int]],
    placements: list[Placement],
    size: tuple[int, int],
    threshold: float,
) -> list[Detections]:
    """The boxes of each picture with at least this score. `outputs`: 'logits' [n, boxes, labels] and 'boxes'
    [n, boxes, 4]. `sizes`: (width, height) of the pictures; `size`: (height, width) of the input they were put into.
    """
    return [
        _of_one(task, logits, boxes, picture, placement, size, threshold)
        for logits, boxes, picture, placement in zip(
            outputs["logits"], outputs["boxes"], sizes, placements, strict=True
        )
    ]


def _of_one(
    task: Detection,
    logits: Floats,
    boxes: Floats,
    picture: tuple[int, int],
    placement: Placement,
    size: tuple[int, int],
    threshold: float,
) -> Detections:
    if task.score == "softmax":
        scores = _softmax(logits)[:, :-1]
        queries, labels = np.arange(len(scores)), scores.argmax(1)
        values = scores[queries, labels]
    else:
        # As transformers' post-processing: the best pairs of box and label, a box perhaps more than once.
        scores = _sigmoid(logits)
        flat = np.flatnonzero(scores >= threshold)
        queries, labels = np.divmod(flat, scores.shape[1])
        values = scores.reshape(-1)[flat]
    order = np.argsort(-values, kind="stable")
    order = order[values[order] >= threshold]
    order = order[: task.most if task.overlap is None else max(task.most, _CANDIDATES)]
    corners = _in_picture(task, boxes[queries[order]], picture, placement, size)
    found = detections(corners, values[order].astype(np.float32), labels[order].astype(np.int64))
    # A box can lie in the letterbox's margin, or be without a size after a bad query: there is nothing to show.
    found = found.take((found.boxes[:, 2] > found.boxes[:, 0]) & (found.boxes[:, 3] > found.boxes[:, 1]))
    if task.overlap is not None:
        found = found.take(suppressed(found, task.overlap)[: task.most])
    return found


def _in_picture(
    task: Detection, boxes: Floats, picture: tuple[int, int], placement: Placement, size: tuple[int, int]
) -> Floats:
    boxes = boxes.astype(np.float32)
    if task.form == "cxcywh":
        half = boxes[:, 2:] / 2
        boxes = np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], 1)
    if task.unit == "share":
        boxes = boxes * np.array([size[1], size[0]] * 2, np.float32)
    offset, scale = np.array(placement.offset * 2, np.float32), np.array(placement.scale * 2, np.float32)
    corners: Floats = ((boxes - offset) / scale).clip(0, np.array(picture * 2, np.float32)).astype(np.float32)
    return corners


def suppressed(found: Detections, overlap: float, by_label: bool = True) -> Ints:
    """The places of those that stay when of two that overlap more the one with the lower score goes; `found` has the
    best first."""
    if not len(found):
        return np.zeros(0, np.int64)
    boxes = found.boxes
    if by_label:
        # Far enough apart, boxes of different labels never overlap.
        boxes = boxes + (found.labels * (boxes.max() + 1))[:, None].astype(np.float32)
    above = iou(boxes, boxes) > overlap
    keep = np.ones(len(boxes), bool)
    for i in range(len(boxes)):
        if keep[i]:
            keep[i + 1 :] &= ~above[i, i + 1 :]
    return np.flatnonzero(keep)


def iou(a: Floats, b: Floats) -> Floats:
    """Intersection over union of each of `a` [n, 4] with each of `b` [m, 4], [n, m]; 0 where both are without area."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    inner = (high - low).clip(min=0).prod(2)
    total = (a[:, 2:] - a[:, :2]).prod(1)[:, None] + (b[:, 2:] - b[:, :2]).prod(1)[None] - inner
    shares: Floats = np.divide(inner, total, out=np.zeros_like(inner), where=total > 0)
    return shares


def _softmax(x: Floats) -> Floats:
    e = np.exp(x.astype(np.float32) - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)  # type: ignore[no-any-return]


def _sigmoid(x: Floats) -> Floats:
    # By tanh: it overflows nowhere.
    return 0.5 * (1 + np.tanh(0.5 * x.astype(np.float32)))  # type: ignore[no-any-return]
