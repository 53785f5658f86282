"""Every page can be found: in the navigation, from the front page, from the index of decisions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(str(p.relative_to(DOCS)) for p in DOCS.rglob("*.md"))
DECISIONS = [p for p in PAGES if re.match(r"decisions/\d", p)]


def test_the_navigation_holds_every_page_once() -> None:
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    assert sorted(re.findall(r"[\w/.-]+\.md", nav)) == PAGES


def test_the_front_page_leads_to_every_page() -> None:
    links = set(re.findall(r"\]\(([^)#]+\.md)\)", (DOCS / "index.md").read_text(encoding="utf-8")))
    assert links == set(PAGES) - set(DECISIONS) - {"index.md"}


def test_the_index_of_decisions_has_each_with_its_title() -> None:
    index = (DOCS / "decisions" / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^- \[(\d+)\]\(([^)]+)\): (.+)$", index, flags=re.MULTILINE)
    assert sorted(f"decisions/{file}" for _, file, _ in listed) == DECISIONS
    for number, file, title in listed:
        first = (DOCS / "decisions" / file).read_text(encoding="utf-8").split("\n", 1)[0]
        assert first.lower() == f"# {number}: {title}".lower()


@pytest.mark.parametrize("page", ["docs/architecture.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_the_files_that_a_page_names_exist(page: str) -> None:
    """What is in backticks and looks like a path of the repository."""
    words = re.findall(r"`([\w./-]+)`", (ROOT / page).read_text(encoding="utf-8"))
    paths = {w for w in words if re.match(r"(vitc|kernels|lowering|passes|tests|benchmarks|examples|docs)/", w)}
    new = {"passes/canonical/my_rewrite.py", "vitc/targets/NAME.toml"}
    assert sorted(p for p in paths - new if not (ROOT / p).exists()) == []
