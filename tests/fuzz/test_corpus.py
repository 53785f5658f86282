"""Every finding of the fuzzers so far: each is refused by name, at once."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import attacks

from vitc import targets
from vitc.bundle import read_bundle
from vitc.errors import BundleError, PipelineError, TargetError
from vitc.files.npy import read_npy
from vitc.pipeline import parse_pipeline

CORPUS = Path(__file__).parent / "corpus"


def files(folder: str) -> list[Path]:
    found = sorted((CORPUS / folder).iterdir())
    assert found
    return found


@pytest.mark.parametrize("text", json.loads((CORPUS / "pipelines.json").read_text()), ids=lambda text: repr(text[:20]))
def test_pipelines(text: str) -> None:
    with pytest.raises(PipelineError):
        parse_pipeline(text)


@pytest.mark.parametrize("path", files("targets"), ids=lambda path: path.stem)
def test_targets(path: Path) -> None:
    with pytest.raises(TargetError):
        targets.load(path)


@pytest.mark.parametrize("path", files("arrays"), ids=lambda path: path.stem)
def test_arrays(path: Path) -> None:
    with pytest.raises(ValueError, match="its header|it does not begin|its shape|its elements"):
        read_npy(path)


@pytest.mark.parametrize("path", files("archives"), ids=lambda path: path.stem)
def test_archives(path: Path) -> None:
    with pytest.raises(BundleError):
        read_bundle(path)


@pytest.mark.parametrize(
    ("place", "value"),
    [pytest.param(place, value, id=name) for name, place, value in json.loads((CORPUS / "manifests.json").read_text())],
)
def test_manifests(place: list[Any], value: Any, tmp_path: Path) -> None:
    """Sealed as somebody who knows the format would."""
    body, contents = attacks._opened()
    inner = body
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = "mark" if isinstance(value, dict) and set(value) <= {"digits", "nested"} else value
    sealed = attacks._sealed(body, contents).decode()
    if inner[place[-1]] == "mark":  # what Python's own json does not write
        text = "9" * value["digits"] if "digits" in value else '{"a":' * value["nested"] + "1" + "}" * value["nested"]
        sealed = sealed.replace('"mark"', text)
    with pytest.raises(BundleError):
        read_bundle(attacks._written(tmp_path, {**contents, "manifest.json": sealed.encode()}))
