"""What is known about a program's features: weights, gradients of a loss, statistics of activations."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Interpreter, Node

from vitc.errors import PassError
from vitc.graph import constant
from vitc.graph.movement import example_shape
from vitc.graph.nodes import operand
from vitc.graph.program import Program
from vitc.passes.pruning.find.flow import Flow
from vitc.passes.pruning.find.groups import Groups
from vitc.passes.pruning.find.layers import LAYERS, channel_dim, is_depthwise
from vitc.passes.pruning.find.products import sdpa
from vitc.passes.pruning.find.tags import NOBODY, core
from vitc.passes.pruning.score.readers import Reader, observe_readers

aten = torch.ops.aten


@dataclass(frozen=True)
class Layer:
    """One layer as a criterion sees it; all tensors float32, a row for each output feature.

    What a criterion did not ask for by `needs` is None. The last three are of the feature as those see it that read it
    (behind the activation function), over images and tokens; zero where no layer and no attention reads it directly.

    weight:           [out, fan-in], the bias as its last column if there is one.
    gradient:         as the weight: of the loss, mean over the batches.
    squared_gradient: as the weight: mean of its squares.
    saliency:         [out], mean over batches of (Σ gradient · weight)² of the row.
    mean:             [out].
    variance:         [out].
    second_moment:    [out].
    """

    weight: torch.Tensor
    gradient: torch.Tensor | None = None
    squared_gradient: torch.Tensor | None = None
    saliency: torch.Tensor | None = None
    mean: torch.Tensor | None = None
    variance: torch.Tensor | None = None
    second_moment: torch.Tensor | None = None


class Facts:
    """Facts about the features of one program, gathered once for what the criterion needs.

    `mean`, `variance`, `second_moment` [features]; `reader(layer)`: covariance of its inputs, gain of its outputs.
    """

    def __init__(self, program: Program, groups: Groups, needs: Iterable[str]) -> None:
        self.groups, self.flow, self.module = groups, groups.flow, program.module
        self.needs = frozenset(needs)
        self._layers = [
            n for n in program.graph.nodes if n.target in LAYERS and n in {s.node for s in self.flow.sources}
        ]
        self._gradients: dict[Node, tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = {}
        self._moments: _Moments | None = None
        if self.needs and program.samples is None:
            raise PassError(
                f"pruning needs {' and '.join(sorted(self.needs))} and has no data; pass data=batches to vitc.prune"
            )
        self._readers = observe_readers(program, self.flow) if "covariance" in self.needs else {}
        # Of a reader that no matrix describes the variances are all there is to know.
        if "activations" in self.needs or not all(reader.is_matrix for reader in self._readers.values()):
            self._moments = _observe(program, self.flow)
        if "gradients" in self.needs:
            self._gradients = _gradients(program, self._layers)

    def layer(self, node: Node) -> Layer:
        """The facts about one layer."""
        rows = slice(self._first(node), self._first(node) + example_shape(node)[channel_dim(node)])
        moments: dict[str, Any] = {}
        if self._moments is not None:
            moments = {k: getattr(self, k)[rows] for k in ("mean", "variance", "second_moment")}
        gradients = dict(zip(("gradient", "squared_gradient", "saliency"), self._gradients.get(node, ()), strict=False))
        return Layer(weight_rows(self.module, node), **gradients, **moments)

    def layers(self) -> list[Node]:
        """The layers that make features, in the order of the graph."""
        return self._layers

    def per_feature(self, score: Any) -> torch.Tensor:
        """score(layer) [out] of every layer, put together: [features]."""
        values = torch.zeros(self.flow.count)
        for node in self._layers:
            first, rows = self._first(node), score(self.layer(node))
            values[first : first + len(rows)] = rows
        return values

    @property
    def mean(self) -> torch.Tensor:
        return self._known().total / self._known().count.clamp(min=1)

    @property
    def variance(self) -> torch.Tensor:
        return (self.second_moment - self.mean**2).clamp(min=0)

    @property
    def second_moment(self) -> torch.Tensor:
        return self._known().squares / self._known().count.clamp(min=1)

    def reader(self, node: Node) -> Reader:
        """What a layer reads, and how much the model's outputs move with what it makes."""
        if node not in self._readers:
            raise PassError("a criterion reads covariances and does not say so; give its class needs = ('covariance',)")
        return self._readers[node]

    def _known(self) -> _Moments:
        if self._moments is None:
            raise PassError(
                "a criterion reads activations and does not say so; give its class needs = ('activations',)"
            )
        return self._moments

    def _first(self, node: Node) -> int:
        return next(s.first for s in self.flow.sources if s.node is node)


def weight_rows(module: torch.fx.GraphModule, layer: Node) -> torch.Tensor:
    """[out, fan-in], the bias as the last column."""
    parts = [constant(module, operand(layer, 1)).flatten(1)]
    if len(layer.args) > 2 and isinstance(layer.args[2], Node):
        parts.append(constant(module, layer.args[2])[:, None])
    return torch.cat(parts, 1).float()


class _Moments:
    """Sums over what readers and attentions read, by feature."""

    def __init__(self, count: int) -> None:
        self.total, self.squares, self.count = (torch.zeros(count, dtype=torch.float64) for _ in range(3))

    def add(self, value: torch.Tensor, tags: torch.Tensor) -> None:
        small = core(tags)
        dims = [d for d in range(small.ndim) if small.shape[d] == 1]
        index = small.clamp(0).flatten().long()
        real = (small != NOBODY).flatten()
        size = value.numel() / small.numel()
        for total, values in ((self.total, value), (self.squares, value.square())):
            summed = values.sum(dims).flatten().double() if dims else values.flatten().double()
            total.index_add_(0, index, summed * real)
        self.count.index_add_(0, index, size * real.double())


class _Observer(Interpreter):
    """Looks at the operands of readers and attentions."""

    def __init__(self, module: torch.fx.GraphModule, flow: Flow, moments: _Moments) -> None:
        super().__init__(module)
        self.flow, self.moments = flow, moments

    def run_node(self, n: Node) -> Any:
        if n in self.flow.columns and not is_depthwise(n):
            self._add(operand(n))
        elif n.target in (sdpa, aten.matmul.default, aten.bmm.default):
            for i in range(3 if n.target is sdpa else 2):
                self._add(operand(n, i))
        return super().run_node(n)

    def _add(self, node: Node) -> None:
        """Adds a value that is read to the sums of its features."""
        if (tags := self.flow.tags_of(node)) is not None:
            self.moments.add(self.env[node], tags)


def _observe(program: Program, flow: Flow) -> _Moments:
    moments = _Moments(flow.count)
    observer = _Observer(program.module, flow, moments)
    assert program.samples is not None
    with torch.no_grad():
        for inputs in program.samples.inputs():
            observer.run(*inputs, enable_io_processing=False)
    return moments


def _gradients(program: Program, layers: list[Node]) -> dict[Node, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """(mean gradient, mean squared gradient, saliency) by layer."""
    module = program.module
    parameters = {n: [module.get_parameter(str(a.target)) for a in n.args[1:3] if isinstance(a, Node)] for n in layers}
    wanted = list(dict.fromkeys(p for ps in parameters.values() for p in ps))
    was = [p.requires_grad for p in wanted]
    sums: dict[Node, list[torch.Tensor]] = {}
    count = 0
    assert program.samples is not None
    try:
        for p in wanted:
            p.requires_grad_(True)
        for loss in program.samples.losses(module):
            grads = dict(zip(wanted, torch.autograd.grad(loss, wanted, allow_unused=True), strict=True))
            count += 1
            for node, own in parameters.items():
                found = [grads[p] if grads[p] is not None else torch.zeros_like(p) for p in own]
                g = torch.cat([t.flatten(1) if t.ndim > 1 else t[:, None] for t in found], 1).float()
                product = (g * weight_rows(module, node)).sum(1).square()
                for i, term in enumerate((g, g.square(), product)):
                    old = sums.setdefault(node, [])
                    old.append(term) if len(old) <= i else old[i].add_(term)
    finally:
        for p, flag in zip(wanted, was, strict=True):
            p.requires_grad_(flag)
    return {node: (g / count, squared / count, saliency / count) for node, (g, squared, saliency) in sums.items()}
