"""What the explorer shows, before it is laid out: the nodes of a graph after each pass. Plain data, no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

#: A figure or a word; metrics.py says which.
Value = float | str


@dataclass(frozen=True)
class Weight:
    """A tensor that a node reads and no node makes: its name, its type as text ("f32[768, 768]") and twelve digits
    that change with its content ("" where the content is not at hand)."""

    name: str
    type: str
    digest: str = ""


@dataclass(frozen=True)
class Node:
    """One operator of a graph. `path`: the user's module, one entry a level. `inputs`: the names of the nodes it
    reads, in order. `options`: its other operands. `made_by`: the pass that made it, "" for what was captured;
    `origin`: the captured node that it stands for."""

    name: str
    op: str
    path: tuple[str, ...] = ()
    type: str = ""
    inputs: tuple[str, ...] = ()
    weights: tuple[Weight, ...] = ()
    options: str = ""
    made_by: str = ""
    origin: str = ""

    @property
    def module(self) -> str:
        """The module's path as users write it."""
        return ".".join(self.path)

    @property
    def minor(self) -> bool:
        """Sizes that are read everywhere and say nothing about the flow of data."""
        return self.type == "int"


@dataclass(frozen=True)
class Step:
    """The graph after one pass, or as it was captured. `values`: metric → node name → value. `seconds` is measured and
    differs from run to run; `deviation`: of the outputs from those of the first step, as a share of their largest
    magnitude (None: not asked for). `error`: why the pass that should have come next failed."""

    title: str
    stage: str
    nodes: tuple[Node, ...]
    notes: tuple[str, ...] = ()
    values: Mapping[str, Mapping[str, Value]] = field(default_factory=dict)
    seconds: float | None = None
    deviation: float | None = None
    error: str = ""


@dataclass(frozen=True)
class Layer:
    """A layer of a built engine: the nodes of the last step that it came from, what it is, what they were predicted to
    become ("" where nothing was), whether one of them became something else, and its measured ms where it was run."""

    name: str
    kind: str
    nodes: tuple[str, ...]
    predicted: str = ""
    differs: bool = False
    detail: str = ""
    ms: float | None = None


@dataclass(frozen=True)
class EngineView:
    """A built engine's layers, in the order they run."""

    title: str
    layers: tuple[Layer, ...]


def common_path(nodes: Iterable[Node]) -> tuple[str, ...]:
    """The deepest module that holds all of them."""
    paths = [node.path for node in nodes]
    if not paths:
        return ()
    shared: list[str] = []
    for level in zip(*paths, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return tuple(shared)
