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
from vitc.passes.pruning.flow import Flow
from vitc.passes.pruning.groups import Groups
from vitc.passes.pruning.layers import CONVOLUTIONS, LAYERS, channel_dim, is_depthwise
from vitc.passes.pruning.products import sdpa
from vitc.passes.pruning.tags import NOBODY, core
from vitc.program import Program

aten = torch.ops.aten


@dataclass(frozen=True)
class Layer:
    """One layer as a criterion sees it; all tensors float32, a row for each output feature.

    `weight` [out, fan-in], the bias as its last column if there is one. `gradient`: of the loss, mean over the batches;
    `squared_gradient`: mean of its squares; `saliency` [out]: mean over batches of (Σ gradient · weight)² of the row. `mean`,
    `variance`, `second_moment` [out]: of the feature as those see it that read it (behind the activation function), over
    images and tokens; zero where no layer and no attention reads it directly. What was not asked for by `needs` is None.
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

    `mean`, `variance`, `second_moment` [features]; `covariance(reader)`: of a reader's input columns.
    """

    def __init__(self, program: Program, groups: Groups, needs: Iterable[str]) -> None:
        self.groups, self.flow, self.module = groups, groups.flow, program.module
        self.needs = frozenset(needs)
        self._layers = [n for n in program.graph.nodes if n.target in LAYERS and n in {s.node for s in self.flow.sources}]
        self._gradients: dict[Node, tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = {}
        self._moments: _Moments | None = None
        if self.needs and program.samples is None:
            raise PassError(f"pruning needs {' and '.join(sorted(self.needs))} and has no data; pass data=batches to vitc.prune")
        if self.needs & {"activations", "covariance"}:
            self._moments = _observe(program, self.flow, "covariance" in self.needs)
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

    def has_covariance(self, reader: Node) -> bool:
        """Whether `covariance` knows the reader: it multiplies each place of its input by one matrix."""
        return reader in self._known().matrices

    def covariance(self, reader: Node) -> tuple[torch.Tensor, torch.Tensor]:
        """(mean [in], covariance [in, in]) of what a reader reads."""
        count, total, products = self._known().matrices[reader]
        mean = total / count
        return mean, products / count - torch.outer(mean, mean)

    def _known(self) -> _Moments:
        if self._moments is None:
            raise PassError("a criterion reads activations and does not say so; give its class needs = ('activations',)")
        return self._moments

    def _first(self, node: Node) -> int:
        return next(s.first for s in self.flow.sources if s.node is node)


def weight_rows(module: torch.fx.GraphModule, layer: Node) -> torch.Tensor:
    """[out, fan-in], the bias as the last column."""
    parts = [constant(module, operand(layer, 1)).flatten(1)]
    if len(layer.args) > 2 and isinstance(layer.args[2], Node):
        parts.append(constant(module, layer.args[2])[:, None])
    return torch.cat(parts, 1).float()


def reads_rows(layer: Node) -> bool:
    """Whether a layer multiplies each place of its input by one matrix: a linear, or a convolution with a kernel of 1."""
    if layer.target is aten.linear.default:
        return True
    return layer.target in CONVOLUTIONS and example_shape(operand(layer, 1))[1:] == (example_shape(operand(layer))[1], 1, 1)


class _Moments:
    """Sums over what readers and attentions read, by feature; and of products, by reader."""

    def __init__(self, count: int) -> None:
        self.total, self.squares, self.count = (torch.zeros(count, dtype=torch.float64) for _ in range(3))
        self.matrices: dict[Node, tuple[float, torch.Tensor, torch.Tensor]] = {}

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

    def add_products(self, reader: Node, value: torch.Tensor) -> None:
        rows = value.movedim(channel_dim(reader), -1).flatten(0, -2).float()
        count, total, products = self.matrices.get(reader, (0.0, torch.zeros(rows.shape[1]), torch.zeros(rows.shape[1], rows.shape[1])))
        self.matrices[reader] = (count + len(rows), total + rows.sum(0), products.addmm_(rows.T, rows))


class _Observer(Interpreter):
    """Looks at the operands of readers and attentions."""

    def __init__(self, module: torch.fx.GraphModule, flow: Flow, moments: _Moments, covariance: bool) -> None:
        super().__init__(module)
        self.flow, self.moments, self.covariance = flow, moments, covariance

    def run_node(self, n: Node) -> Any:
        if n in self.flow.columns and not is_depthwise(n):
            value = self._add(operand(n))
            if self.covariance and reads_rows(n) and not bool(self.flow.summed[self.flow.columns[n].clamp(0).long()].any()):
                self.moments.add_products(n, value)
        elif n.target in (sdpa, aten.matmul.default, aten.bmm.default):
            for i in range(3 if n.target is sdpa else 2):
                self._add(operand(n, i))
        return super().run_node(n)

    def _add(self, node: Node) -> torch.Tensor:
        """Adds a value that is read to the sums of its features, and returns it."""
        value: torch.Tensor = self.env[node]
        if (tags := self.flow.tags_of(node)) is not None:
            self.moments.add(value, tags)
        return value


def _observe(program: Program, flow: Flow, covariance: bool) -> _Moments:
    moments = _Moments(flow.count)
    observer = _Observer(program.module, flow, moments, covariance)
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
