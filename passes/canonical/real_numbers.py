"""real-numbers: what computes with complex numbers computes with pairs of real ones.

Rotary positions are often written as a product of complex numbers (Su et al., arXiv 2104.09864; so in SAM 2). No engine
has complex tensors, so each becomes a tensor with one more dimension, the last, of real and imaginary part:
(a + bi)·(c + di) = (ac − bd) + (ad + bc)i.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from vitc.errors import PassError
from vitc.graph import Rewriter, constant, shape_of
from vitc.graph.nodes import argument, is_constant, is_tensor, operand, val, where
from vitc.graph.program import Program
from vitc.pipeline import Pass, register_pass

aten = torch.ops.aten


@register_pass
@dataclass(frozen=True)
class RealNumbers(Pass):
    """Turns every complex tensor into pairs of real numbers.

    A graph without any is left as it is.
    """

    name = "real-numbers"
    before = ("fold-constants", "fuse-attention")

    def run(self, program: Program) -> Program:
        nodes = [n for n in program.graph.nodes if _is_complex(n) or any(map(_is_complex, n.all_input_nodes))]
        if not nodes:
            return program
        rewriter = Rewriter(program.module, self.name)
        pairs = _Pairs(rewriter)
        for node in nodes:
            pairs.rewrite(node)
        rewriter.finish()
        return program


def _is_complex(node: Node) -> bool:
    return is_tensor(node) and val(node).dtype.is_complex


class _Pairs:
    """The real tensor [..., 2] that stands for each complex node."""

    def __init__(self, rewriter: Rewriter) -> None:
        self._rewriter = rewriter
        self._of: dict[Node, Node] = {}

    def rewrite(self, node: Node) -> None:
        if node.op == "output":
            raise PassError("the model returns a complex tensor, which no engine has; return torch.view_as_real of it")
        if node.op == "placeholder":
            raise PassError(f"input {node.name!r} is complex, which no engine takes; pass torch.view_as_real of it")
        if is_constant(node):
            value = torch.view_as_real(constant(self._rewriter.module, node).resolve_conj()).contiguous()
            with self._rewriter.at(node):
                name = self._rewriter.unique_name(f"{node.target}_pairs")
                self._of[node] = self._rewriter.parameter(name, value, trainable=False)
            return
        handler = _RULES.get(node.target)
        if handler is None:
            raise PassError(f"{where(node)} computes with complex numbers, which have no form in vitc for it")
        with self._rewriter.at(node):
            new = handler(self, node)
        if _is_complex(node):
            self._of[node] = new
        else:
            self._rewriter.replace(node, self._as(new, val(node).dtype))

    def _as(self, new: Node, dtype: torch.dtype) -> Node:
        return new if val(new).dtype == dtype else self.call(aten._to_copy.default, new, dtype=dtype)

    def call(self, target: Callable[..., Any], *args: Any, **kwargs: Any) -> Node:
        return self._rewriter.call(target, *args, **kwargs)

    def pair(self, value: Any) -> Node:
        """The pairs of an operand; those of a real one have no imaginary part."""
        if value in self._of:
            return self._of[value]
        return self.join(value, self.call(aten.zeros_like.default, value))

    def parts(self, value: Node) -> tuple[Node, Node]:
        """Real and imaginary part."""
        both = self.pair(value)
        return self.call(aten.select.int, both, -1, 0), self.call(aten.select.int, both, -1, 1)

    def join(self, real: Node, imaginary: Node) -> Node:
        return self.call(aten.stack.default, [real, imaginary], -1)


def _same(pairs: _Pairs, node: Node) -> Node:
    return pairs.pair(operand(node))


def _from_real(_: _Pairs, node: Node) -> Node:
    return operand(node)


def _complex(pairs: _Pairs, node: Node) -> Node:
    return pairs.join(operand(node), operand(node, 1))


def _polar(pairs: _Pairs, node: Node) -> Node:
    length, angle = operand(node), operand(node, 1)
    turned = (pairs.call(f, angle) for f in (aten.cos.default, aten.sin.default))
    return pairs.join(*(pairs.call(aten.mul.Tensor, length, t) for t in turned))


def _product(pairs: _Pairs, node: Node) -> Node:
    left, right = node.args[:2]
    if not isinstance(right, Node):
        if isinstance(right, complex):
            raise PassError(f"{where(node)} multiplies by the complex number {right}; make it a tensor of the model")
        return pairs.call(aten.mul.Tensor, pairs.pair(left), right)
    for one, other in ((left, right), (right, left)):
        if not _is_complex(one):  # type: ignore[arg-type]
            spread = pairs.call(aten.unsqueeze.default, one, -1)
            return pairs.call(aten.mul.Tensor, pairs.pair(other), spread)
    (a, b), (c, d) = pairs.parts(left), pairs.parts(right)  # type: ignore[arg-type]
    times: Callable[[Node, Node], Node] = lambda p, q: pairs.call(aten.mul.Tensor, p, q)  # noqa: E731
    real = pairs.call(aten.sub.Tensor, times(a, c), times(b, d))
    return pairs.join(real, pairs.call(aten.add.Tensor, times(a, d), times(b, c)))


def _sum(pairs: _Pairs, node: Node) -> Node:
    left, right = (n if isinstance(n, Node) else None for n in node.args[:2])
    if left is None or right is None or node.kwargs.get("alpha", 1) != 1:
        raise PassError(f"{where(node)} adds a number to a complex tensor; make it a tensor of the model")
    (a, b), (c, d) = pairs.parts(left), pairs.parts(right)  # parts: one of rank less may broadcast
    return pairs.join(pairs.call(node.target, a, c), pairs.call(node.target, b, d))  # type: ignore[arg-type]


def _conjugate(pairs: _Pairs, node: Node) -> Node:
    real, imaginary = pairs.parts(operand(node))
    return pairs.join(real, pairs.call(aten.neg.default, imaginary))


def _real(pairs: _Pairs, node: Node) -> Node:
    return pairs.parts(operand(node))[0]


def _imaginary(pairs: _Pairs, node: Node) -> Node:
    return pairs.parts(operand(node))[1]


def _length(pairs: _Pairs, node: Node) -> Node:
    real, imaginary = pairs.parts(operand(node))
    squares = (pairs.call(aten.mul.Tensor, t, t) for t in (real, imaginary))
    return pairs.call(aten.sqrt.default, pairs.call(aten.add.Tensor, *squares))


def _from_front(node: Node, dim: Any) -> int:
    """A dimension counted from the front: the pairs stand at the end."""
    return int(dim) % len(shape_of(operand(node)))


def _reshaped(pairs: _Pairs, node: Node) -> Node:
    sizes = list(argument(node, 1))
    return pairs.call(aten.reshape.default, pairs.pair(operand(node)), [*sizes, 2])


def _expanded(pairs: _Pairs, node: Node) -> Node:
    return pairs.call(aten.expand.default, pairs.pair(operand(node)), [*argument(node, 1), 2])


def _repeated(pairs: _Pairs, node: Node) -> Node:
    return pairs.call(aten.repeat.default, pairs.pair(operand(node)), [*argument(node, 1), 1])


def _at_one_dim(pairs: _Pairs, node: Node) -> Node:
    """select, slice, squeeze, index_select: (x, dim, …)."""
    dim = _from_front(node, argument(node, 1, "dim", 0))
    return pairs.call(node.target, pairs.pair(operand(node)), dim, *node.args[2:], **node.kwargs)  # type: ignore[arg-type]


def _unsqueezed(pairs: _Pairs, node: Node) -> Node:
    return pairs.call(aten.unsqueeze.default, pairs.pair(operand(node)), int(argument(node, 1)) % len(shape_of(node)))


def _transposed(pairs: _Pairs, node: Node) -> Node:
    dims = [_from_front(node, d) for d in node.args[1:3]]
    return pairs.call(aten.transpose.int, pairs.pair(operand(node)), *dims)


def _permuted(pairs: _Pairs, node: Node) -> Node:
    order: Sequence[Any] = argument(node, 1)
    dims = [_from_front(node, d) for d in order]
    return pairs.call(aten.permute.default, pairs.pair(operand(node)), [*dims, len(dims)])


def _joined(pairs: _Pairs, node: Node) -> Node:
    parts: Sequence[Node] = argument(node, 0)
    dim = int(argument(node, 1, "dim", 0)) % len(shape_of(node))
    return pairs.call(node.target, [pairs.pair(p) for p in parts], dim)  # type: ignore[arg-type]


def _indexed(pairs: _Pairs, node: Node) -> Node:
    return pairs.call(aten.index.Tensor, pairs.pair(operand(node)), argument(node, 1))


_RULES: dict[Any, Callable[[_Pairs, Node], Node]] = {
    aten.view_as_complex.default: _from_real,
    aten.view_as_real.default: _same,
    aten.complex.default: _complex,
    aten.polar.default: _polar,
    aten.mul.Tensor: _product,
    aten.mul.Scalar: _product,
    aten.add.Tensor: _sum,
    aten.sub.Tensor: _sum,
    aten._conj.default: _conjugate,
    aten.conj_physical.default: _conjugate,
    aten.real.default: _real,
    aten.imag.default: _imaginary,
    aten.abs.default: _length,
    aten.reshape.default: _reshaped,
    aten.view.default: _reshaped,
    aten._unsafe_view.default: _reshaped,
    aten.expand.default: _expanded,
    aten.repeat.default: _repeated,
    aten.select.int: _at_one_dim,
    aten.slice.Tensor: _at_one_dim,
    aten.squeeze.dim: _at_one_dim,
    aten.index_select.default: _at_one_dim,
    aten.unsqueeze.default: _unsqueezed,
    aten.transpose.int: _transposed,
    aten.permute.default: _permuted,
    aten.cat.default: _joined,
    aten.stack.default: _joined,
    aten.index.Tensor: _indexed,
    **{op: _same for op in (
        aten.clone.default, aten.alias.default, aten.detach.default, aten.contiguous.default,
        aten.lift_fresh_copy.default, aten.resolve_conj.default,
    )},
}  # fmt: skip
