"""The journal of a search: every answer is written down as it comes, so a killed search goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from vitc.errors import InputError
from vitc.files import sealed_json
from vitc.graph.fingerprint import digest
from vitc.graph.program import Program

_FILE = "vitc-search.json"
_FORM = 2
_REMEDY = "name another folder or delete it"

T = TypeVar("T")


class SearchJournal:
    """Answers by question, in one JSON file of a folder (None: kept in memory only).

    `identity` says what is searched: a file of another search is refused, with what differs. Each answer replaces the
    file atomically, so that a kill leaves the old or the new one, never half of one. Its SHA-256 stands in it.
    """

    def __init__(self, folder: str | Path | None, identity: Mapping[str, str]) -> None:
        self._path = None if folder is None else Path(folder) / _FILE
        self._identity = dict(identity)
        self._answers: dict[str, Any] = {}
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if self._path.exists():
                self._answers = self._read(self._path)

    def ask(self, question: str, answer: Callable[[], Any], read: Callable[[Any], T]) -> T:
        """The answer of an earlier run, or of now, as `read` makes it of plain data."""
        if question not in self._answers:
            self._answers[question] = answer()
            self._write()
        try:
            return read(self._answers[question])
        except (TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{self._path} answers {question!r} with what is no answer ({error}); {_REMEDY}"
            ) from error

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            data = sealed_json.read(path)
        except (OSError, ValueError) as error:
            raise InputError(f"{path} is not the journal of a search ({error}); {_REMEDY}") from error
        if "form" in data and data["form"] != _FORM:
            raise InputError(f"{path} has the form {data['form']!r}, this vitc reads {_FORM}; {_REMEDY}")
        try:
            data = sealed_json.unseal(data)
        except ValueError as error:
            raise InputError(f"{path} is damaged, or not the journal of a search ({error}); {_REMEDY}") from error
        identity, answers = data.get("identity"), data.get("answers")
        if not isinstance(identity, dict) or not isinstance(answers, dict):
            raise InputError(f"{path} is not the journal of a search (no identity, no answers); {_REMEDY}")
        different = [
            f"{key} is {identity.get(key, '(none)')} there and {self._identity.get(key, '(none)')} here"
            for key in sorted({*identity, *self._identity})
            if identity.get(key) != self._identity.get(key)
        ]
        if different:
            raise InputError(
                f"{path} belongs to another search: {'; '.join(different)}. Name another folder, or delete it"
            )
        return answers

    def _write(self) -> None:
        if self._path is None:
            return
        sealed_json.write(self._path, {"form": _FORM, "identity": self._identity, "answers": self._answers})


def ranges_fingerprint(program: Program) -> str:
    """Twelve digits that change with what calibration found, so with its images."""
    found = program.findings
    return digest(json.dumps([sorted(found.ranges.items()), sorted(found.peaks.items())]))
