"""The journal of a search: every answer is written down as it comes, so a killed search goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vitc.errors import InputError
from vitc.graph.fingerprint import digest
from vitc.graph.program import Program

_FILE = "vitc-search.json"
_FORM = 1


class SearchJournal:
    """Answers by question, in one JSON file of a folder (None: kept in memory only).

    `identity` says what is searched: a file of another search is refused, with what differs. Each answer replaces the
    file atomically, so that a kill leaves the old or the new one, never half of one.
    """

    def __init__(self, folder: str | Path | None, identity: Mapping[str, str]) -> None:
        self._path = None if folder is None else Path(folder) / _FILE
        self._identity = dict(identity)
        self._answers: dict[str, Any] = {}
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if self._path.exists():
                self._answers = self._read(self._path)

    def ask(self, question: str, answer: Callable[[], Any]) -> Any:
        """The answer of an earlier run, or of now."""
        if question not in self._answers:
            self._answers[question] = answer()
            self._write()
        return self._answers[question]

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            form, identity, answers = data["form"], data["identity"], data["answers"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path} is not the journal of a search ({error}); name another folder or delete it"
            ) from error
        if form != _FORM:
            raise InputError(f"{path} has the form {form}, this vitc reads {_FORM}; name another folder or delete it")
        different = [
            f"{key} is {identity.get(key, '(none)')} there and {self._identity.get(key, '(none)')} here"
            for key in sorted({*identity, *self._identity})
            if identity.get(key) != self._identity.get(key)
        ]
        if different:
            raise InputError(
                f"{path} belongs to another search: {'; '.join(different)}. Name another folder, or delete it"
            )
        return answers  # type: ignore[no-any-return]

    def _write(self) -> None:
        if self._path is None:
            return
        unfinished = self._path.with_suffix(".part")
        with unfinished.open("w", encoding="utf-8") as file:
            json.dump({"form": _FORM, "identity": self._identity, "answers": self._answers}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(self._path)


def ranges_fingerprint(program: Program) -> str:
    """Twelve digits that change with what calibration found, so with its images."""
    return digest(json.dumps(dict(sorted(program.ranges.items()))))
