"""Every package starts with a map of what is in it."""

from __future__ import annotations

import ast
import re

import pytest
from sources import modules, tree

PACKAGES = [name for name, path in modules().items() if path.name == "__init__.py"]
#: Names that need no line: a package that is run, an old name that only leads to the new one.
UNMAPPED = {"__main__", "torchvision_import"}


@pytest.mark.parametrize("package", PACKAGES)
def test_the_map_names_every_module_of_the_package(package: str) -> None:
    folder = modules()[package].parent
    inside = {p.stem for p in folder.glob("*.py")} - {"__init__"}
    inside |= {p.name for p in folder.iterdir() if (p / "__init__.py").exists()}
    text = ast.get_docstring(tree(package)) or ""
    missing = {name for name in inside if not re.search(rf"(?m)(^| {{2,}}){name}(\.py|/)? ", text)}
    assert missing - UNMAPPED == set(), f"give each a line in {package}/__init__.py"


@pytest.mark.parametrize("package", PACKAGES)
def test_the_map_names_nothing_that_is_gone(package: str) -> None:
    folder = modules()[package].parent
    named = re.findall(r"(?m)^([a-z_]\w*)(?:\.py|/)? {2,}\S", ast.get_docstring(tree(package)) or "")
    assert [name for name in named if not (folder / name).is_dir() and not (folder / f"{name}.py").is_file()] == []
