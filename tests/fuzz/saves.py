"""Everything vitc saves, as something to interrupt: what is there before, the save, and what a reader then finds."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from seeds import bundle_contents

from vitc.bundle import read_bundle, write_bundle
from vitc.errors import VitcError
from vitc.mixed.journal import SearchJournal


@dataclass(frozen=True)
class Save:
    """`write(folder, text)` saves a state that `read(folder)` gives back as that text, in the one entry `name` of the
    folder."""

    name: str
    write: Callable[[Path, str], object]
    read: Callable[[Path], str]


def _bundle(form: str) -> Save:
    def write(folder: Path, text: str) -> None:
        write_bundle(folder / "b", replace(bundle_contents(), pipeline=text), form)  # type: ignore[arg-type]

    def read(folder: Path) -> str:
        bundle = read_bundle(folder / "b")
        list(bundle.golden())
        return bundle.manifest.pipeline

    return Save("b", write, read)


def _other_form() -> Save:
    """A folder in a file's place, and the other way round."""
    folder, file = _bundle("folder"), _bundle("file")
    return Save("b", lambda at, text: (file if (at / "b").is_dir() else folder).write(at, text), folder.read)


def _search_journal() -> Save:
    def write(folder: Path, text: str) -> None:
        journal = SearchJournal(folder, {"model": "a"})
        journal._answers.clear()
        journal.ask("text", lambda: text, str)

    def read(folder: Path) -> str:
        return SearchJournal(folder, {"model": "a"}).ask("text", lambda: "gone", str)

    return Save("vitc-search.json", write, read)


def _plan() -> Save:
    from vitc.passes.pruning.plan import PrunePlan

    def write(folder: Path, text: str) -> None:
        PrunePlan(text, "cpu", "l1", ()).save(folder / "plan.json")

    return Save("plan.json", write, lambda folder: PrunePlan.load(folder / "plan.json").fingerprint)


def _state_file() -> Save:
    """What calibration journals and distillation checkpoints are."""
    import torch

    from vitc import state_file

    def write(folder: Path, text: str) -> None:
        state_file.write(folder / "run", {"a": torch.full((1 << 16,), float(len(text)))}, {"text": text})

    def read(folder: Path) -> str:
        tensors, state = state_file.read(folder / "run", "checkpoint", VitcError)
        np.testing.assert_array_equal(tensors["a"].numpy(), len(state["text"]))
        return str(state["text"])

    return Save("run", write, read)


SAVES: dict[str, Callable[[], Save]] = {
    "bundle-folder": lambda: _bundle("folder"),
    "bundle-file": lambda: _bundle("file"),
    "bundle-other-form": _other_form,
    "search-journal": _search_journal,
    "plan": _plan,
    "state-file": _state_file,
}
