"""A pass can be found by its name, and says what it does and what its options mean."""

from __future__ import annotations

import inspect
import re

import pytest

from vitc.pipeline import Pass, known_passes
from vitc.pipeline.registry import options_of

OWN = {name: cls for name, cls in known_passes().items() if cls.__module__.startswith("vitc.passes.")}
#: How the first line of a pass's docstring may begin, which `vitc passes` prints. A new pass may add its own verb.
VERBS = {
    "Brings", "Declares", "Evaluates", "Folds", "Limits", "Merges", "Moves", "Pushes", "Puts", "Removes",
    "Replaces", "Sorts", "Trains", "Turns",
}  # fmt: skip


def test_all_passes_are_looked_at() -> None:
    assert len(OWN) >= 20


@pytest.mark.parametrize(("name", "cls"), OWN.items(), ids=OWN)
def test_a_pass_stands_in_the_file_of_its_own_name(name: str, cls: type[Pass]) -> None:
    assert cls.__module__.rpartition(".")[2] == name.replace("-", "_")


@pytest.mark.parametrize(("name", "cls"), OWN.items(), ids=OWN)
def test_the_first_line_says_what_the_pass_does(name: str, cls: type[Pass]) -> None:
    first = (inspect.getdoc(cls) or "").split("\n")[0]
    assert first.split()[0] in VERBS
    assert first.endswith(".")


@pytest.mark.parametrize(("name", "cls"), OWN.items(), ids=OWN)
def test_every_option_has_a_line(name: str, cls: type[Pass]) -> None:
    described = set(re.findall(r"(?m)^(\w+): ", inspect.getdoc(cls) or ""))
    assert described == set(options_of(cls))
