"""Runs the calibration stream through the graph once and shows each tensor asked for to its observers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from vitc.ops import split_heads
from vitc.program import Program


class Observer(Protocol):
    """Sees a tensor once a batch; `images` is the batch's size. `state`: all that it has learnt and will draw, to go on from."""

    def update(self, value: Tensor, images: int) -> None: ...

    def state(self) -> dict[str, Tensor]: ...

    def restore(self, state: Mapping[str, Tensor]) -> None: ...


def observe(program: Program, observers: Iterable[tuple[Node, Observer]]) -> None:
    """Shows the value of each node to its observers, batch by batch; nothing is kept here. With a journal, batches that
    an earlier run has shown are not run again: the observers get the state that they had."""
    stream, watched = program.calibration, list(observers)
    assert stream is not None
    runner = _Runner(program.module, watched)
    with torch.no_grad():
        for batch in stream if stream.journal is None else stream.journal.unseen(program, watched):
            runner.images = batch[0].shape[0]
            runner.run(*batch, enable_io_processing=False)


class FastInterpreter(Interpreter):
    """Computes vitc::attention with torch's own fused kernel: the same function, many times faster on a CPU. `stretch` runs
    a part of the graph."""

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target is torch.ops.vitc.attention.default:
            return fused_attention(*args[:8])
        return super().call_function(target, args, kwargs)

    def stretch(
        self, nodes: Sequence[Node], values: Mapping[Node, Any], instead: Mapping[Node, Tensor] = MappingProxyType({})
    ) -> dict[Node, Any]:
        """All values after some nodes have run on `values`; `instead`: what some of the nodes give without being run."""
        self.env = dict(values)
        for node in nodes:
            self.env[node] = instead[node] if node in instead else self.run_node(node)
        return self.env


def fused_attention(
    q: Tensor, k: Tensor | None, v: Tensor | None, bias: Tensor | None, heads: int, head_dim: int, scale: float, layout: str
) -> Tensor:
    """vitc::attention by scaled_dot_product_attention: [B, N, H·D]."""
    q, k, v = split_heads(q, k, v, heads, head_dim, layout)
    if bias is not None and bias.shape[0] > 1:
        bias = bias.repeat(q.shape[0] // bias.shape[0], 1, 1, 1)
    mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
    return mixed.transpose(1, 2).flatten(2)


class _Runner(FastInterpreter):
    def __init__(self, module: GraphModule, observers: Iterable[tuple[Node, Observer]]) -> None:
        super().__init__(module)
        self.images = 0
        self._observers: dict[Node, list[Observer]] = {}
        for node, observer in observers:
            self._observers.setdefault(node, []).append(observer)

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        for observer in self._observers.get(n, ()):
            observer.update(result, self.images)
        return result
