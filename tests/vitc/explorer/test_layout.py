"""Layers and order."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from vitc.explorer.layout import layered
from vitc.explorer.modules import Module


def flat(count: int) -> list[Module]:
    return [Module("", (), -1, list(range(count)))]


def test_a_chain_is_a_column_and_a_skip_gets_a_lane() -> None:
    (layers,) = layered(flat(4), [(0, 1), (1, 2), (2, 3), (0, 3)])
    assert [sorted(map(str, layer)) for layer in layers] == [["0"], ["1", "e0"], ["2", "e0"], ["3"]]


def test_edges_through_a_module_get_lanes_inside_it() -> None:
    # 0 → (1 → 2) → 3 and 0 → 2: the module holds 1 and 2.
    modules = [Module("", (), -1, [0, -2, 3]), Module("m", ("m",), 0, [1, 2])]
    root, inner = layered(modules, [(0, 1), (1, 2), (0, 2), (2, 3), (1, 3)])
    assert root == [[0], [-2], [3]]
    assert [set(layer) for layer in inner] == [{1, "i0"}, {2, "o1"}]


def test_a_module_entered_twice_makes_no_endless_circle() -> None:
    modules = [Module("", (), -1, [-2, 1]), Module("m", ("m",), 0, [0, 2])]
    root, _ = layered(modules, [(0, 1), (1, 2)])
    assert root == [[-2], [1]]


def test_constants_stand_above_their_reader() -> None:
    (layers,) = layered(flat(4), [(0, 1), (1, 2), (3, 2)])
    assert 3 in layers[1]


@settings(max_examples=60, deadline=None)
@given(st.sets(st.tuples(st.integers(0, 14), st.integers(0, 14)).filter(lambda e: e[0] < e[1])))
def test_every_edge_points_down(edges: set[tuple[int, int]]) -> None:
    (layers,) = layered(flat(15), edges)
    level = {item: n for n, layer in enumerate(layers) for item in layer if isinstance(item, int)}
    assert sorted(level) == list(range(15))
    assert all(level[a] < level[b] for a, b in edges)


def test_the_same_input_gives_the_same_layout() -> None:
    edges = {(a, b) for a in range(12) for b in range(a + 1, 12) if (a * b) % 3 == 1}
    assert layered(flat(12), edges) == layered(flat(12), sorted(edges, reverse=True))
