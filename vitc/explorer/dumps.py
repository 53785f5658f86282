"""Text dumps as records: a folder of NN-name.txt, as `vitc dump` and `compile(dump=…)` write it."""

from __future__ import annotations

import re
from pathlib import Path

from vitc.errors import InputError
from vitc.explorer.changes import difference
from vitc.explorer.records import Node, Step, Weight

_HEAD = re.compile(r"# stage (?P<stage>[\w-]+)(?:, after (?P<text>.*))?$")
_LINE = re.compile(r"%(?P<name>\S+) : (?P<type>.*?) = (?P<op>[\w.]+)(?:\((?P<operands>.*)\))?(?:  # (?P<module>\S+))?$")
_NODE, _WEIGHT = re.compile(r"%([\w.]+)"), re.compile(r"@([\w.]+)")
_PARAMETER = re.compile(r"@(?P<name>\S+) : (?P<type>.*)$")


def read_steps(folder: Path) -> list[Step]:
    """The dumps of a folder, in order. Raises InputError where there are none, or a line is not one of a dump."""
    paths = sorted(p for p in folder.iterdir() if re.fullmatch(r"\d\d-[\w.-]+\.txt", p.name))
    if not paths:
        raise InputError(f"there are no dumps in {str(folder)!r}; make some with: vitc dump MODEL FOLDER")
    return [read_step(path) for path in paths]


def read_step(path: Path) -> Step:
    """One dump. Raises InputError for what is none."""
    if not path.is_file():
        raise InputError(f"there is no dump {str(path)!r}; make some with: vitc dump MODEL FOLDER")
    head, *lines = path.read_text(encoding="utf-8").splitlines() or [""]
    found = _HEAD.match(head)
    if found is None:
        raise InputError(f"{str(path)!r} is no dump: its first line is not '# stage …'")
    nodes: list[Node] = []
    types: dict[str, str] = {}
    for line in lines:
        if parameter := _PARAMETER.match(line):
            types[parameter["name"]] = parameter["type"]
    for number, line in enumerate(lines, 2):
        if not line.strip() or line.startswith(("#", "@")):
            continue
        nodes.append(_node(line, types, f"{path}:{number}"))
    return Step(title=found["text"] or found["stage"], stage=found["stage"], nodes=tuple(nodes))


def differences(before: Path, after: Path) -> list[str]:
    """Two dumps node by node: "- " a node that went, "+ " one that came, "~ " one that changed, and in what. A node
    that only moved is the same. [] where the graphs are equal. Raises InputError."""
    old, new = read_step(before), read_step(after)
    found = difference(old, new)
    gone = {node.name: node for node in old.nodes}
    lines = [f"- {_text(gone[name])}" for name in found.erased]
    for node in new.nodes:
        if node.name in found.created:
            lines.append(f"+ {_text(node)}")
        elif kinds := found.altered.get(node.name):
            lines.append(f"~ {_text(node)}")
            lines.append(f"    {', '.join(kinds)}; was {_text(gone[node.name])}")
    return lines


def _text(node: Node) -> str:
    """A node as its dump writes it, its operands in their places."""
    nodes, weights = iter(node.inputs), iter(w.name for w in node.weights)
    operands = re.sub("[%@]", lambda m: f"{m[0]}{next(nodes if m[0] == '%' else weights, '…')}", node.options)
    if node.op == "output":
        return f"return [{', '.join(f'%{name}' for name in node.inputs)}]"
    return f"%{node.name} : {node.type} = {node.op}({operands})" + (f"  # {node.module}" if node.path else "")


def _node(line: str, types: dict[str, str], place: str) -> Node:
    if line.startswith("return "):
        return Node("output", "output", inputs=tuple(dict.fromkeys(_NODE.findall(line))))
    found = _LINE.match(line)
    if found is None:
        raise InputError(f"{place}: this is no line of a dump: {line[:120]!r}")
    operands = found["operands"] or ""
    return Node(
        name=found["name"],
        op=found["op"],
        path=tuple((found["module"] or "").split(".")) if found["module"] else (),
        type=found["type"],
        inputs=tuple(_NODE.findall(operands)),
        weights=tuple(Weight(name, types.get(name, "")) for name in _WEIGHT.findall(operands)),
        options=_WEIGHT.sub("@", _NODE.sub("%", operands)),
    )
