"""What a pass did to a graph: nodes matched by provenance, not by position, and changes gathered into rewrites.

A node is the same before and after if it has its name and was made by the same pass: a pass works on a copy in which
names stay, and a node that a pass makes carries that pass's name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vitc.explorer.records import Node, Step, common_path


@dataclass(frozen=True)
class Rewrite:
    """One change: the nodes it took away, made, and altered, and what it is in words. `erased` are of the graph
    before, the others of that after."""

    text: str
    path: tuple[str, ...]
    erased: tuple[str, ...]
    created: tuple[str, ...]
    altered: tuple[str, ...]


@dataclass(frozen=True)
class Difference:
    """`pairs`: the nodes that stayed, old name to new. `altered`: new name → what of it changed."""

    pairs: Mapping[str, str]
    erased: tuple[str, ...]
    created: tuple[str, ...]
    altered: Mapping[str, tuple[str, ...]]
    rewrites: tuple[Rewrite, ...]


def difference(before: Step, after: Step) -> Difference:
    """From one step to the next."""
    old = {node.name: node for node in before.nodes}
    new = {node.name: node for node in after.nodes}
    pairs = {name: name for name, node in old.items() if name in new and new[name].made_by == node.made_by}
    return compared(old, new, pairs)


def compared(old: Mapping[str, Node], new: Mapping[str, Node], pairs: Mapping[str, str]) -> Difference:
    """The difference of two graphs whose matching nodes are known."""
    stayed = set(pairs.values())
    erased = tuple(name for name in old if name not in pairs)
    created = tuple(name for name in new if name not in stayed)
    altered = {}
    for was, now in pairs.items():
        if kinds := _altered(old[was], new[now], pairs):
            altered[now] = kinds
    return Difference(pairs, erased, created, altered, _rewrites(old, new, pairs, erased, created, altered))


def identities(steps: Sequence[Step]) -> list[dict[str, int]]:
    """For each step, a number for each node that stays the same as long as the node does."""
    found: list[dict[str, int]] = []
    count = 0
    for i, step in enumerate(steps):
        pairs = difference(steps[i - 1], step).pairs if i else {}
        before = {now: found[i - 1][was] for was, now in pairs.items()}
        numbers = {}
        for node in step.nodes:
            numbers[node.name] = before.get(node.name, count)
            count += node.name not in before
        found.append(numbers)
    return found


def _altered(was: Node, now: Node, pairs: Mapping[str, str]) -> tuple[str, ...]:
    """What differs in a node that stayed."""
    kinds = []
    if was.op != now.op:
        kinds.append(f"operator {short(was.op)} → {short(now.op)}")
    if was.type != now.type:
        kinds.append(f"type {was.type} → {now.type}")
    if tuple(pairs.get(name, "") for name in was.inputs) != now.inputs:
        kinds.append("inputs")
    if was.options != now.options:
        kinds.append("options")
    if was.weights != now.weights:
        kinds.append("weights")
    return tuple(kinds)


def _rewrites(
    old: Mapping[str, Node],
    new: Mapping[str, Node],
    pairs: Mapping[str, str],
    erased: Sequence[str],
    created: Sequence[str],
    altered: Mapping[str, tuple[str, ...]],
) -> tuple[Rewrite, ...]:
    """Changed nodes belong together if one reads the other, stands for the same captured node, or took the other's
    place in a reader."""
    back = {now: was for was, now in pairs.items()}
    groups = _Groups([*(("-", n) for n in erased), *(("+", n) for n in created)])
    gone, made = set(erased), set(created)
    for sign, graph, names in (("-", old, gone), ("+", new, made)):
        for name in names:
            for source in graph[name].inputs:
                if source in names:
                    groups.join((sign, name), (sign, source))
    by_origin: dict[str, tuple[str, str]] = {}
    for sign, graph, listed in (("-", old, erased), ("+", new, created)):
        for name in listed:
            if origin := graph[name].origin:
                groups.join((sign, name), by_origin.setdefault(origin, (sign, name)))
    for now in altered:
        before, after = old[back[now]], new[now]
        if len(before.inputs) != len(after.inputs):
            continue
        for a, b in zip(before.inputs, after.inputs, strict=True):
            if a in gone and b in made:
                groups.join(("-", a), ("+", b))
    _join_neighbours(groups, old, new, pairs, gone, made)
    order = {name: i for i, name in enumerate(new)} | {name: i for i, name in enumerate(old) if name in gone}
    found = []
    for members in groups.sets():
        minus = tuple(n for s, n in members if s == "-")
        plus = tuple(n for s, n in members if s == "+")
        nodes = [*(old[n] for n in minus), *(new[n] for n in plus)]
        found.append(Rewrite(_words(nodes[: len(minus)], nodes[len(minus) :]), common_path(nodes), minus, plus, ()))
    loose = [n for n in altered if altered[n] != ("inputs",)]
    for name in loose:
        found.append(Rewrite(f"{short(new[name].op)}: {_plain(altered[name])}", new[name].path, (), (), (name,)))
    found.sort(key=lambda r: min(order[n] for n in (*r.erased, *r.created, *r.altered)))
    return tuple(found)


def _join_neighbours(
    groups: _Groups,
    old: Mapping[str, Node],
    new: Mapping[str, Node],
    pairs: Mapping[str, str],
    gone: set[str],
    made: set[str],
) -> None:
    """Three linears that become one read the same tensor: what goes and what comes under one module, off one source,
    is one rewrite."""
    seen: dict[tuple[tuple[str, ...], str], tuple[str, str]] = {}
    for name in made:
        for source in new[name].inputs:
            if source not in made:
                seen.setdefault((new[name].path[:-1], source), ("+", name))
    for name in gone:
        for source in old[name].inputs:
            other = seen.get((old[name].path[:-1], pairs.get(source, "")))
            if other is not None and not old.get(source, old[name]).minor:
                groups.join(("-", name), other)


def _words(minus: Iterable[Node], plus: Iterable[Node]) -> str:
    """ "3 linear → linear + split"; "− clone"; "+ quantize + dequantize"."""
    gone, made = (_counted(short(n.op) for n in nodes) for nodes in (minus, plus))
    if gone and made:
        return f"{' + '.join(gone)} → {' + '.join(made)}"
    return f"− {', '.join(gone)}" if gone else f"+ {', '.join(made)}"


def _counted(words: Iterable[str]) -> list[str]:
    return [word if n == 1 else f"{n} {word}" for word, n in Counter(words).items()]


def _plain(kinds: tuple[str, ...]) -> str:
    """Without shapes, so that equal changes of different blocks read alike."""
    words = []
    for kind in kinds:
        if kind.startswith("type "):
            was, now = (part.partition("[")[0] for part in kind.removeprefix("type ").split(" → "))
            kind = f"{was} → {now}" if was != now else "shape"
        if kind != "inputs":
            words.append(kind)
    return ", ".join(words)


def short(op: str) -> str:
    """'aten.add.Tensor' → 'add', 'vitc.quantize' → 'quantize'."""
    head, _, rest = op.partition(".")
    return (rest if head in ("aten", "vitc", "prims") and rest else op).partition(".")[0] or op


class _Groups:
    """Union-find over (sign, name)."""

    def __init__(self, members: Iterable[tuple[str, str]]) -> None:
        self._parent = {member: member for member in members}

    def _root(self, member: tuple[str, str]) -> tuple[str, str]:
        while self._parent[member] != member:
            self._parent[member] = self._parent[self._parent[member]]
            member = self._parent[member]
        return member

    def join(self, a: tuple[str, str], b: tuple[str, str]) -> None:
        self._parent[self._root(a)] = self._root(b)

    def sets(self) -> list[list[tuple[str, str]]]:
        found: dict[tuple[str, str], list[tuple[str, str]]] = {}
        for member in self._parent:
            found.setdefault(self._root(member), []).append(member)
        return list(found.values())
