"""What mkdocs does not see: links of the README, and that the pages name what exists."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import vitc
from vitc.targets import available

ROOT = Path(__file__).parents[2]


def test_relative_links_of_the_readme_exist() -> None:
    links = re.findall(r"\]\(([^)#]+)", (ROOT / "README.md").read_text())
    relative = [link for link in links if "://" not in link]
    assert relative
    assert [link for link in relative if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("name", vitc.__all__)
def test_api_page_names_every_public_name(name: str) -> None:
    assert f"vitc.{name}" in (ROOT / "docs" / "api.md").read_text()


def test_api_page_names_no_unknown_name() -> None:
    named = set(re.findall(r"^### `vitc\.([A-Za-z_]+)", (ROOT / "docs" / "api.md").read_text(), flags=re.MULTILINE))
    assert named == set(vitc.__all__)


_HEADINGS = re.findall(
    r"^### `vitc\.([A-Za-z_]+)\((.*)\)`$", (ROOT / "docs" / "api.md").read_text(), flags=re.MULTILINE
)


@pytest.mark.parametrize(("name", "arguments"), _HEADINGS, ids=[name for name, _ in _HEADINGS])
def test_api_page_has_the_arguments_and_their_defaults(name: str, arguments: str) -> None:
    space = {public: getattr(vitc, public) for public in vitc.__all__}
    exec(f"def written({arguments}): ...", space)
    written = inspect.signature(space["written"]).parameters
    real = {k: p for k, p in inspect.signature(getattr(vitc, name)).parameters.items() if not k.startswith("_")}
    assert list(written) == list(real)
    for key, parameter in written.items():
        if parameter.default is not inspect.Parameter.empty:
            assert parameter.default == real[key].default, key


@pytest.mark.parametrize("name", available())
def test_targets_page_names_every_target(name: str) -> None:
    assert f"`{name}`" in (ROOT / "docs" / "targets.md").read_text()
