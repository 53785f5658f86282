"""Where things stand, module by module: the layers of a layered drawing and the order inside each.

Only order is decided here. A viewer knows which modules are open and how large things are, and makes coordinates of
it: so one layout serves every state of folding. Sugiyama's method (IEEE Trans. SMC 11(2), 1981): layers by longest
paths, places for edges that pass a layer, fewer crossings by barycenters.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush

from vitc.explorer.modules import Module

#: An item (a node, or −1−module), or the place of a passing edge: "e7": out of item 7; "i12": of what node 12, which
#: stands outside, gives to this module; "o7": of what item 7 gives to the outside.
Entry = int | str
#: Edges that pass more layers get no places of their own, a viewer draws them straight; fewer in a module of thousands
#: of items, where none could be followed by eye.
_FARTHEST, _FARTHEST_OF_MANY, _MANY = 24, 4, 1000
_SWEEPS = 4


def layered(modules: Sequence[Module], edges: Iterable[tuple[int, int]]) -> list[list[list[Entry]]]:
    """For each module its layers, top to bottom, each left to right. `edges`: (from, to) of nodes."""
    home = {item: m for m, module in enumerate(modules) for item in module.items}
    inner: list[set[tuple[int, int]]] = [set() for _ in modules]
    entering: list[set[tuple[int, int]]] = [set() for _ in modules]
    leaving: list[set[int]] = [set() for _ in modules]
    for source, sink in edges:
        if source not in home or sink not in home:
            continue
        up, down = _way(source, home), _way(sink, home)
        depth = next((i for i in range(min(len(up), len(down))) if up[i] != down[i]), None)
        if depth is None:
            continue
        inner[home[up[depth]]].add((up[depth], down[depth]))
        for item in up[depth + 1 :]:
            leaving[home[item]].add(item)
        for item in down[depth + 1 :]:
            entering[home[item]].add((source, item))
    return [
        _layers(module.items, inner[m], entering[m], leaving[m], _places(module.items, modules))
        for m, module in enumerate(modules)
    ]


def _way(node: int, home: dict[int, int]) -> list[int]:
    """The items from the root's down to the node."""
    way = [node]
    while home[way[-1]] != 0:
        way.append(-1 - home[way[-1]])
    return way[::-1]


def _places(items: Sequence[int], modules: Sequence[Module]) -> dict[int, int]:
    """When each item first runs: the index of its first node."""

    def first(item: int) -> int:
        while item < 0:
            inside = modules[-1 - item].items
            item = min((i for i in inside if i >= 0), default=inside[0]) if inside else 0
        return item

    return {item: first(item) for item in items}


def _layers(
    items: Sequence[int],
    edges: set[tuple[int, int]],
    entering: set[tuple[int, int]],
    leaving: set[int],
    place: dict[int, int],
) -> list[list[Entry]]:
    ordered = _in_order(items, edges, place)
    turn = {item: i for i, item in enumerate(ordered)}
    readers: dict[int, list[int]] = defaultdict(list)
    sources: dict[int, list[int]] = defaultdict(list)
    for a, b in sorted(edges, key=lambda e: (turn[e[0]], turn[e[1]])):
        if turn[a] < turn[b]:
            readers[a].append(b)
            sources[b].append(a)
    level: dict[int, int] = {}
    for item in ordered:
        level[item] = max((level[s] + 1 for s in sources[item]), default=0)
    outside = {item for _, item in entering}
    for item in reversed(ordered):  # constants stand beside what reads them
        if not sources[item] and item not in outside and readers[item]:
            level[item] = min(level[r] for r in readers[item]) - 1
    lowest = min(level.values(), default=0)
    level = {item: n - lowest for item, n in level.items()}
    last = max(level.values(), default=-1)
    layers: list[list[Entry]] = [[] for _ in range(last + 1)]
    for item in ordered:
        layers[level[item]].append(item)
    farthest = _FARTHEST if len(items) <= _MANY else _FARTHEST_OF_MANY
    links = _with_passing(layers, level, readers, entering, leaving, last, farthest)
    _uncross(layers, links)
    return layers


def _in_order(items: Sequence[int], edges: set[tuple[int, int]], place: dict[int, int]) -> list[int]:
    """The items so that edges point forward; what first runs earlier comes first where that is free. A module that is
    entered twice makes a circle: what of it runs first is taken, and its edge back is left out."""
    waits = {item: 0 for item in items}
    readers: dict[int, list[int]] = defaultdict(list)
    for a, b in edges:
        waits[b] += 1
        readers[a].append(b)
    ready = [(place[item], item) for item in items if not waits[item]]
    later = sorted(((place[item], item) for item in items), reverse=True)
    heapify(ready)
    ordered: list[int] = []
    done: set[int] = set()
    while len(ordered) < len(items):
        if not ready:
            while later[-1][1] in done:
                later.pop()
            ready.append(later[-1])
        _, item = heappop(ready)
        if item in done:
            continue
        done.add(item)
        ordered.append(item)
        for reader in readers[item]:
            waits[reader] -= 1
            if not waits[reader] and reader not in done:
                heappush(ready, (place[reader], reader))
    return ordered


def _with_passing(
    layers: list[list[Entry]],
    level: dict[int, int],
    readers: dict[int, list[int]],
    entering: set[tuple[int, int]],
    leaving: set[int],
    last: int,
    farthest: int,
) -> list[dict[Entry, list[Entry]]]:
    """Adds the places of passing edges; returns, for each layer, what its entries are linked to in the next."""
    links: list[dict[Entry, list[Entry]]] = [defaultdict(list) for _ in layers]

    def chain(name: str, start: int, sinks: Iterable[tuple[int, Entry | None]], head: Entry | None) -> None:
        ends = sorted(sinks, key=lambda sink: (sink[0], str(sink[1])))
        far = [n for n, _ in ends if start < n <= start + farthest]
        stop = max(far, default=start + 1)
        for n in range(start + 1, stop):
            layers[n].append(name)
            before = head if n == start + 1 else name
            if before is not None and n >= 1:
                links[n - 1][before].append(name)
        for n, sink in ends:
            before = head if n == start + 1 else name
            if before is not None and sink is not None and 1 <= n <= stop:
                links[n - 1][before].append(sink)

    for item, sinks in readers.items():
        chain(f"e{item}", level[item], [(level[s], s) for s in sinks], item)
    into: dict[int, list[int]] = defaultdict(list)
    for source, item in sorted(entering):
        into[source].append(item)
    for source, sinks in into.items():
        chain(f"i{source}", -1, [(level[s], s) for s in sinks], None)
    for item in sorted(leaving):
        if last - level[item] <= farthest:
            chain(f"o{item}", level[item], [(last + 1, None)], item)
    return links


def _uncross(layers: list[list[Entry]], links: list[dict[Entry, list[Entry]]]) -> None:
    """Orders each layer by the mean place of its neighbours, down and up by turns."""
    back: list[dict[Entry, list[Entry]]] = [defaultdict(list) for _ in layers]
    for n, linked in enumerate(links[:-1]):
        for source, sinks in linked.items():
            for sink in sinks:
                back[n + 1][sink].append(source)
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        for n in range(1, len(layers)) if down else range(len(layers) - 2, -1, -1):
            beside, towards = (layers[n - 1], back[n]) if down else (layers[n + 1], links[n])
            spot = {entry: i / max(1, len(beside) - 1) for i, entry in enumerate(beside)}
            here = {entry: i / max(1, len(layers[n]) - 1) for i, entry in enumerate(layers[n])}

            def wanted(entry: Entry, towards=towards, spot=spot, here=here) -> float:  # type: ignore[no-untyped-def]
                found = [spot[o] for o in towards.get(entry, ()) if o in spot]
                return float(sum(found) / len(found)) if found else float(here[entry])

            layers[n].sort(key=wanted)
