"""The task in the manifest: schema 2 has it, schema 1 is still read."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vitc.bundle import BundleContents, TensorInfo, read_bundle, write_bundle
from vitc.errors import BundleError
from vitc.task import Classification, Task


def _stored(folder: Path, contents: BundleContents, task: Task | None) -> dict[str, Any]:
    write_bundle(folder, replace(contents, outputs=(TensorInfo("y", "float32", ("batch", 4)),), task=task))
    return json.loads((folder / "manifest.json").read_text())  # type: ignore[no-any-return]


def test_a_bundle_keeps_it(tmp_path: Path, contents: BundleContents) -> None:
    task = Classification(["a", "b", "c", "d"])
    body = _stored(tmp_path / "b", contents, task)
    assert body["schema"] == 2
    assert body["task"] == {"kind": "classification", "labels": list("abcd"), "score": "softmax", "output": None}
    assert read_bundle(tmp_path / "b").manifest.task == task


def test_schema_1_had_no_task_and_is_still_read(tmp_path: Path, contents: BundleContents) -> None:
    body = _stored(tmp_path / "b", contents, None)
    del body["task"], body["digest"]
    body["schema"] = 1
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    body["digest"] = hashlib.sha256(text.encode()).hexdigest()
    (tmp_path / "b" / "manifest.json").write_text(json.dumps(body))
    assert read_bundle(tmp_path / "b").manifest.task is None


def test_a_task_that_does_not_fit_is_refused(tmp_path: Path, contents: BundleContents) -> None:
    with pytest.raises(BundleError, match="does not fit the outputs: the task has 1 labels, the model gives 4 scores"):
        _stored(tmp_path / "b", contents, Classification(["cat"]))
