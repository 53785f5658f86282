"""What a model's outputs mean, so that a bundle runs on pictures with nothing else at hand.

A task names outputs by their place in the structure the model returns: 'logits', '0', 'detections.boxes'. It is data,
written into the manifest; vitc.video turns arrays into labels and boxes by it. No torch here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeAlias

from vitc.calibration.preprocessing import Preprocessing
from vitc.errors import InputError, unknown

SCORES = ("softmax", "sigmoid")
FORMS = ("cxcywh", "xyxy")
UNITS = ("share", "pixel")

# A place without a name: COCO's numbering has such gaps.
NO_LABEL = "N/A"


@dataclass(frozen=True)
class Classification:
    """One score per label and image, [n, labels].

    labels: names in the order of the scores, or {number: name}; empty: numbers are shown.
    score: 'softmax', one label per image, or 'sigmoid', each label by itself.
    output: the logits' place in what the model returns; None: 'logits' where it has that, else its only output.
    preprocessing: from a picture to the input; None: what the model's own config says.
    """

    labels: Sequence[str] = ()
    score: str = "softmax"
    output: str | None = None
    preprocessing: Preprocessing | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", _labels(self.labels))
        if self.score not in SCORES:
            raise InputError(unknown("score", self.score, SCORES))


@dataclass(frozen=True)
class Detection:
    """Boxes and their scores: [n, boxes, 4] and [n, boxes, labels], or with one more for 'no object'.

    labels: names in the order of the scores, or {number: name}; empty: numbers are shown.
    form: 'cxcywh', middle and size, or 'xyxy', two corners.
    unit: 'share' of the input's width and height, or 'pixel' of the input.
    score: 'softmax', whose last place is 'no object' (DETR, YOLOS), or 'sigmoid' (models trained with focal loss).
    threshold: boxes with a lower score are not shown.
    overlap: of two boxes of one label which overlap more (IoU), the one with the lower score goes; None: the model
        gives each object once.
    most: boxes per image, the best ones.
    logits, boxes: their places in what the model returns.
    preprocessing: from a picture to the input; None: what the model's own config says.
    """

    labels: Sequence[str] = ()
    form: str = "cxcywh"
    unit: str = "share"
    score: str = "sigmoid"
    threshold: float = 0.5
    overlap: float | None = None
    most: int = 300
    logits: str = "logits"
    boxes: str = "pred_boxes"
    preprocessing: Preprocessing | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", _labels(self.labels))
        for kind, value, known in (
            ("form", self.form, FORMS),
            ("unit", self.unit, UNITS),
            ("score", self.score, SCORES),
        ):
            if value not in known:
                raise InputError(unknown(kind, value, known))
        if not 0.0 <= self.threshold <= 1.0:
            raise InputError(f"threshold is a score from 0 to 1, got {self.threshold}")
        if self.overlap is not None and not 0.0 < self.overlap <= 1.0:
            raise InputError(f"overlap is a share (0, 1] or None, got {self.overlap}")
        if self.most < 1:
            raise InputError(f"most is at least one box, got {self.most}")


Task: TypeAlias = Classification | Detection
_KINDS: dict[str, type[Task]] = {"classification": Classification, "detection": Detection}


def is_task(value: object) -> bool:
    """Whether it is one of the kinds of task."""
    return isinstance(value, tuple(_KINDS.values()))


def read_task(path: Path) -> Task:
    """A task from a JSON file: {"kind": "detection", "labels": ["car", …], …}, with any of the fields of its class, its
    preprocessing too ("preprocessing": {"size": [H, W], …}). InputError, naming the file, where it is not one."""
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"there is no task file {str(path)!r}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"the task file {str(path)!r} is not JSON: {error}") from error
    if not isinstance(given, dict) or given.get("kind") not in _KINDS:
        raise InputError(f'the task file {str(path)!r} needs a "kind": {" or ".join(_KINDS)}')
    try:
        preprocessing = given.pop("preprocessing", None)
        made = Preprocessing.from_dict(preprocessing) if isinstance(preprocessing, dict) else None
        task = task_from_dict({**task_to_dict(_KINDS[given["kind"]]()), **given})
    except InputError as error:
        raise InputError(f"the task file {str(path)!r}: {error}") from error
    return replace(task, preprocessing=made)


def label_of(task: Task, number: int) -> str:
    """The name of a label, or its number where it has none."""
    return task.labels[number] if number < len(task.labels) else str(number)


def task_to_dict(task: Task) -> dict[str, Any]:
    """Plain data, for the manifest. The preprocessing stands there with the input it makes."""
    kind = next(name for name, cls in _KINDS.items() if isinstance(task, cls))
    plain = {key: value for key, value in asdict(task).items() if key != "preprocessing"}
    return {"kind": kind, **plain, "labels": list(task.labels)}


def task_from_dict(plain: Mapping[str, Any]) -> Task:
    """What `task_to_dict` gave. InputError, naming the key, for anything else."""
    kind = plain.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise InputError(unknown("kind of task", str(kind), _KINDS))
    cls = _KINDS[kind]
    names = {f.name for f in fields(cls)} - {"preprocessing"}
    if set(plain) != {"kind", *names}:
        raise InputError(f"a task of kind {kind!r} has the keys {sorted({'kind', *names})}, got {sorted(plain)}")
    labels = plain["labels"]
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise InputError("a task's labels are a list of texts")
    for name, types in _TYPES.items():
        value = plain.get(name)
        if name in names and (not isinstance(value, types) or isinstance(value, bool)):
            raise InputError(f"a task's {name!r} is {' or '.join(t.__name__ for t in types)}, got {value!r}")
    return cls(**{name: plain[name] for name in names})


_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("score", "form", "unit", "logits", "boxes"), (str,)),
    "output": (str, type(None)),
    "threshold": (int, float),
    "overlap": (int, float, type(None)),
    "most": (int,),
}


def places(structure: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(place, output's name) of every output, in order; a model that returns one tensor has the place ''."""
    if structure["kind"] == "leaf":
        yield prefix, structure["name"]
    elif structure["kind"] != "constant":
        items = structure["items"]
        for key, item in items.items() if isinstance(items, Mapping) else enumerate(items):
            yield from places(item, f"{prefix}.{key}" if prefix else str(key))


def outputs_of(task: Task, structure: Mapping[str, Any]) -> dict[str, str]:
    """The task's own names ('logits', 'boxes') → names of outputs. InputError where the model returns no such thing."""
    known = dict(places(structure))
    if isinstance(task, Detection):
        return {"logits": _at(task.logits, known, "logits"), "boxes": _at(task.boxes, known, "boxes")}
    if task.output is not None:
        return {"logits": _at(task.output, known, "output")}
    if "logits" in known or len(known) == 1:
        return {"logits": known.get("logits") or next(iter(known.values()))}
    raise InputError(f"the model returns {', '.join(known)}; say which are the scores: Classification(output=…)")


def _at(place: str, known: Mapping[str, str], argument: str) -> str:
    if place not in known:
        raise InputError(unknown("output", place, known, f"Say which it is with {argument}=…"))
    return known[place]


def check_task(task: Task, structure: Mapping[str, Any], shapes: Mapping[str, Sequence[int | str]]) -> None:
    """InputError where the task's outputs are not there, or not of the shape their labels ask for."""
    names = outputs_of(task, structure)
    rank = 3 if isinstance(task, Detection) else 2
    logits = shapes[names["logits"]]
    if len(logits) != rank:
        raise InputError(f"the scores are to be of {rank} dimensions, the output has the shape {list(logits)}")
    wanted = len(task.labels) + (isinstance(task, Detection) and task.score == "softmax")
    if task.labels and isinstance(logits[-1], int) and logits[-1] != wanted:
        last = " and one for 'no object'" if wanted != len(task.labels) else ""
        raise InputError(f"the task has {len(task.labels)} labels{last}, the model gives {logits[-1]} scores")
    if "boxes" in names and (len(shapes[names["boxes"]]) != 3 or shapes[names["boxes"]][-1] != 4):
        raise InputError(f"the boxes are to be [n, boxes, 4], the output has {list(shapes[names['boxes']])}")


def read_labels(path: Path) -> tuple[str, ...]:
    """Names of classes from a file: one a line, or JSON, as a list or as {number: name}.

    Raises InputError for a file that is not there or is neither.
    """
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if path.suffix == ".json" else [line for line in text.splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise InputError(f"labels cannot be read from {str(path)!r}: {error}") from error
    if not isinstance(found, (list, dict)) or not found:
        raise InputError(f"{str(path)!r} holds no labels; write one name a line, or a JSON list of names")
    try:
        return _labels(found)
    except ValueError as error:
        raise InputError(f"{str(path)!r} must map numbers to names ({error})") from error


def _labels(given: Any) -> tuple[str, ...]:
    if isinstance(given, str):
        raise InputError(f"labels are a list of names, got the text {given!r}")
    if isinstance(given, Mapping):
        by_number = {int(number): str(name) for number, name in given.items()}
        if by_number and (min(by_number) < 0 or max(by_number) > 100_000):
            raise InputError(f"labels are numbered from 0, got {min(by_number)} to {max(by_number)}")
        return tuple(by_number.get(i, NO_LABEL) for i in range(max(by_number, default=-1) + 1))
    return tuple(str(name) for name in given)
