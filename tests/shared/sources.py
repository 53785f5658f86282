"""vitc's own modules as text: their names, their files, and what they import. Nothing is imported to find out."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Import:
    """One import in the text of a module.

    target: the module that is imported; a name imported from a package is the package's, unless it is a module.
    line:   where it stands.
    late:   inside a function, so that it happens when that is called.
    typing: under `if TYPE_CHECKING:`, so that it never happens.
    """

    target: str
    line: int
    late: bool
    typing: bool


@cache
def modules() -> dict[str, Path]:
    """Every module of vitc by its name; those of the three top-level folders under the names they are imported by."""
    found = {}
    for top, prefix in (("vitc", ""), ("kernels", "vitc."), ("lowering", "vitc."), ("passes", "vitc.")):
        for path in sorted((ROOT / top).rglob("*.py")):
            inside = path.relative_to(ROOT)
            if any(parent.is_symlink() for parent in path.parents if parent != ROOT):
                continue
            parts = inside.with_suffix("").parts
            found[prefix + ".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree(module: str) -> ast.Module:
    """The syntax tree of a module."""
    return ast.parse(modules()[module].read_text(encoding="utf-8"))


@cache
def imports(module: str) -> tuple[Import, ...]:
    """Everything that a module imports, wherever in the file it says so; `import_module("…")` too."""
    return tuple(_imports(module, tree(module), late=False, typing=False))


def _imports(module: str, node: ast.AST, late: bool, typing: bool) -> Iterator[Import]:
    for target in _targets(module, node):
        yield Import(target, node.lineno, late, typing)  # type: ignore[attr-defined]
    late = late or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
    typing = typing or (isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"))
    for child in ast.iter_child_nodes(node):
        yield from _imports(module, child, late, typing)


def _targets(module: str, node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = _absolute(module, node)
        yield from dict.fromkeys(
            inner if (inner := f"{base}.{alias.name}") in modules() else base for alias in node.names
        )
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
        yield from (x.value for x in node.args[:1] if isinstance(x, ast.Constant) and isinstance(x.value, str))


def _absolute(module: str, node: ast.ImportFrom) -> str:
    if node.level == 0:
        return node.module or ""
    package = module if modules()[module].name == "__init__.py" else module.rpartition(".")[0]
    above = package.split(".")[: len(package.split(".")) - node.level + 1]
    return ".".join([*above, *filter(None, [node.module])])
