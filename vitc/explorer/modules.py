"""The user's module tree over the nodes of a graph: what folds into what, and which blocks are equal."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from vitc.explorer.changes import short
from vitc.explorer.records import Node

_NUMBERED = re.compile(r"(.*?)(\d+)")


@dataclass
class Module:
    """`items`: what it holds, in order: the index of a node, or −1−m for module m. `series`: it holds numbered
    blocks alike: how many are exactly the same, and what the others have instead."""

    label: str
    path: tuple[str, ...]
    parent: int
    items: list[int] = field(default_factory=list)
    series: Series | None = None


@dataclass(frozen=True)
class Series:
    """`differ`: label of a block → what it has that the `equal` ones have not, and the reverse."""

    count: int
    equal: int
    differ: dict[str, str]


def module_tree(nodes: Sequence[Node], precision: Callable[[int], str]) -> list[Module]:
    """The modules of a graph, the root first, parents before children. `precision`: of a node's arithmetic, "" where
    it does none. Modules that hold one node are left out (the node has its path), and one that holds one module only
    is written with it."""
    modules = [Module("", (), -1)]
    known: dict[tuple[str, ...], int] = {(): 0}
    for i, node in enumerate(nodes):
        at = 0
        for depth in range(1, len(node.path) + 1):
            path = node.path[:depth]
            if path not in known:
                known[path] = len(modules)
                modules.append(Module(path[-1], path, at))
                modules[at].items.append(-1 - known[path])
            at = known[path]
        modules[at].items.append(i)
    kept = _compressed(modules)
    for module in kept:
        module.series = _series(module, kept, nodes, precision)
    return kept


def _compressed(modules: list[Module]) -> list[Module]:
    """Without the modules that add nothing to look at."""

    def items_of(m: int) -> list[int]:
        items: list[int] = []
        for item in modules[m].items:
            if item >= 0:
                items.append(item)
                continue
            child = modules[-1 - item]
            child.items = items_of(-1 - item)
            if len(child.items) == 1 and child.items[0] >= 0:
                items.append(child.items[0])
                continue
            if len(child.items) == 1:
                only = modules[-1 - child.items[0]]
                only.label = f"{child.label}.{only.label}"
                items.append(child.items[0])
                continue
            items.append(item)
        return items

    modules[0].items = items_of(0)
    kept: list[Module] = []

    def keep(m: int, parent: int) -> int:
        number = len(kept)
        kept.append(Module(modules[m].label, modules[m].path, parent))
        kept[number].items = [i if i >= 0 else -1 - keep(-1 - i, number) for i in modules[m].items]
        return number

    keep(0, -1)
    return kept


def nodes_under(modules: Sequence[Module], m: int) -> list[int]:
    """The nodes of a module and of those inside it, in its order."""
    found: list[int] = []
    todo = [m]
    while todo:
        for item in modules[todo.pop()].items:
            if item >= 0:
                found.append(item)
            else:
                todo.append(-1 - item)
    return sorted(found)


def _series(
    module: Module, modules: Sequence[Module], nodes: Sequence[Node], precision: Callable[[int], str]
) -> Series | None:
    """Numbered children that hold alike modules. Twelve blocks of which one is not INT8 are still twelve blocks."""
    children = [-1 - item for item in module.items if item < 0]
    if len(children) < 2 or len(children) < len(module.items):
        return None
    heads = {m[1] if (m := _NUMBERED.fullmatch(modules[c].label.rpartition(".")[2])) else None for c in children}
    if len(heads) > 1 or None in heads:
        return None
    inside = {c: nodes_under(modules, c) for c in children}
    if len({frozenset(_relative(nodes[i], modules[c]) for i in inside[c]) for c in children}) > max(
        1, len(children) // 2
    ):
        return None
    contents = {
        c: Counter((_relative(nodes[i], modules[c]), nodes[i].op, nodes[i].type, precision(i)) for i in inside[c])
        for c in children
    }
    kinds = Counter(frozenset(content.items()) for content in contents.values())
    usual, equal = kinds.most_common(1)[0]
    pattern = Counter(dict(usual))
    differ = {modules[c].label: _difference(contents[c], pattern) for c in children if contents[c] != pattern}
    return Series(len(children), equal, differ)


def _relative(node: Node, module: Module) -> str:
    return ".".join(node.path[len(module.path) :])


def _difference(content: Counter[tuple[str, str, str, str]], pattern: Counter[tuple[str, str, str, str]]) -> str:
    """In words: "4 linear in fp16, the others' in int8; without 10 dequantize, 6 quantize"."""
    has, lacks = content - pattern, pattern - content
    words = []
    for op in dict.fromkeys(short(key[1]) for key in has if key[3]):
        mine, theirs = _precisions(has, op), _precisions(lacks, op)
        if mine.keys() != theirs.keys() and theirs:
            words.append(f"{sum(mine.values())} {op} in {_list(mine)}, the others' in {_list(theirs)}")
    more, less = (
        Counter({op: n for op, n in _ops(a).items() if n > _ops(b)[op]}) for a, b in ((has, lacks), (lacks, has))
    )
    if extra := {op: n - _ops(lacks)[op] for op, n in more.items()}:
        words.append("with " + ", ".join(f"{n} {op}" for op, n in sorted(extra.items())))
    if missing := {op: n - _ops(has)[op] for op, n in less.items()}:
        words.append("without " + ", ".join(f"{n} {op}" for op, n in sorted(missing.items())))
    if not words:
        shapes = sorted({f"{short(op)} {kind}" for _, op, kind, _ in has})
        words.append("other shapes: " + ", ".join(shapes[:3]) + (" …" if len(shapes) > 3 else ""))
    return "; ".join(words)


def _precisions(content: Counter[tuple[str, str, str, str]], op: str) -> Counter[str]:
    counts: Counter[str] = Counter()
    for (_, name, _, precision), n in content.items():
        if short(name) == op and precision:
            counts[precision] += n
    return counts


def _ops(content: Counter[tuple[str, str, str, str]]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for (_, op, _, _), n in content.items():
        counts[short(op)] += n
    return counts


def _list(words: Counter[str]) -> str:
    return " and ".join(sorted(words))
