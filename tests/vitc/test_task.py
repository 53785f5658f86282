"""Tasks: as data and back, against a model's outputs, and every refusal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vitc.calibration.preprocessing import Preprocessing
from vitc.errors import InputError
from vitc.task import (
    Classification,
    Detection,
    Task,
    check_task,
    label_of,
    outputs_of,
    places,
    read_task,
    task_from_dict,
    task_to_dict,
)

LEAF = {"kind": "leaf", "name": "output"}
DETECTOR = {
    "kind": "dataclass",
    "type": "m:Out",
    "items": {
        "logits": {"kind": "leaf", "name": "output_0"},
        "extra": {
            "kind": "tuple",
            "items": [{"kind": "constant", "value": 0}, {"kind": "leaf", "name": "output_1"}],
        },
        "pred_boxes": {"kind": "leaf", "name": "output_2"},
    },
}
SHAPES = {"output_0": ["batch", 100, 4], "output_1": ["batch", 3], "output_2": ["batch", 100, 4]}
TASKS = [
    Classification(),
    Classification(["cat", "dog"], score="sigmoid", output="1"),
    Detection(["car"], form="xyxy", unit="pixel", score="softmax", threshold=0.25, overlap=0.6, most=10, boxes="b"),
]


@pytest.mark.parametrize("task", TASKS, ids=["classes", "some labels", "boxes"])
def test_a_task_is_data_and_comes_back(task: Task) -> None:
    assert task_from_dict(json.loads(json.dumps(task_to_dict(task)))) == task


def test_labels_by_number_leave_gaps() -> None:
    task = Classification({2: "dog", 0: "cat"})  # type: ignore[arg-type]
    assert task.labels == ("cat", "N/A", "dog")
    assert [label_of(task, i) for i in (0, 1, 7)] == ["cat", "N/A", "7"]


def test_places_are_paths_in_what_the_model_returns() -> None:
    assert list(places(DETECTOR)) == [("logits", "output_0"), ("extra.1", "output_1"), ("pred_boxes", "output_2")]
    assert list(places(LEAF)) == [("", "output")]
    assert outputs_of(Detection(), DETECTOR) == {"logits": "output_0", "boxes": "output_2"}
    assert outputs_of(Classification(), LEAF) == {"logits": "output"}
    assert outputs_of(Classification(output="extra.1"), DETECTOR) == {"logits": "output_1"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Classification(score="relu"), "unknown score 'relu'; known: sigmoid, softmax"),
        (lambda: Classification("cat"), "labels are a list of names, got the text 'cat'"),
        (lambda: Classification({-1: "cat"}), "labels are numbered from 0, got -1 to -1"),
        (lambda: Detection(form="xywh"), "unknown form 'xywh'; known: cxcywh, xyxy"),
        (lambda: Detection(unit="cm"), "unknown unit 'cm'; known: pixel, share"),
        (lambda: Detection(threshold=2), "threshold is a score from 0 to 1, got 2"),
        (lambda: Detection(overlap=0.0), "overlap is a share (0, 1] or None, got 0.0"),
        (lambda: Detection(most=0), "most is at least one box, got 0"),
        (lambda: task_from_dict({"kind": "poetry"}), "unknown kind of task 'poetry'; known: classification, detection"),
        (lambda: task_from_dict({"kind": "detection"}), "has the keys ['boxes', 'form'"),
        (lambda: task_from_dict({**task_to_dict(TASKS[0]), "labels": [1]}), "labels are a list of texts"),
        (lambda: task_from_dict({**task_to_dict(TASKS[2]), "most": True}), "a task's 'most' is int, got True"),
        (lambda: outputs_of(Detection(boxes="box"), DETECTOR), "unknown output 'box'; known: extra.1, logits"),
        (lambda: outputs_of(Classification(), {"kind": "list", "items": [LEAF, LEAF]}), "the model returns 0, 1; say"),
        (
            lambda: check_task(Detection(["a", "b"]), DETECTOR, SHAPES),
            "the task has 2 labels, the model gives 4 scores",
        ),
        (
            lambda: check_task(Detection(["a", "b"], score="softmax"), DETECTOR, SHAPES),
            "the task has 2 labels and one for 'no object', the model gives 4 scores",
        ),
        (
            lambda: check_task(Classification(), DETECTOR, SHAPES),
            "the scores are to be of 2 dimensions, the output has the shape ['batch', 100, 4]",
        ),
        (
            lambda: check_task(Detection(boxes="extra.1"), DETECTOR, SHAPES),
            "the boxes are to be [n, boxes, 4], the output has ['batch', 3]",
        ),
    ],
)
def test_refusals(make: object, message: str) -> None:
    with pytest.raises(InputError) as caught:
        make()  # type: ignore[operator]
    assert message in str(caught.value)


def test_a_task_file_needs_only_what_is_not_the_default(tmp_path: Path) -> None:
    path = tmp_path / "task.json"
    size = {"size": [8, 8], "mean": [0, 0, 0], "std": [1, 1, 1], "fit": "stretch"}
    path.write_text(json.dumps({"kind": "detection", "labels": ["car"], "preprocessing": size}))
    assert read_task(path) == Detection(["car"], preprocessing=Preprocessing((8, 8), fit="stretch"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no task file '.*': No such file"),
        ("{", "is not JSON"),
        ('{"labels": []}', 'needs a "kind": classification or detection'),
        ('{"kind": "detection", "colour": 1}', "has the keys"),
        ('{"kind": "detection", "preprocessing": {"size": [8, 8]}}', "a preprocessing has size, mean, std"),
    ],
)
def test_a_task_file_that_is_none(content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "task.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_task(path)
