"""fuse-attention: every spelling of softmax(q·kᵀ·scale + bias)·v becomes one scaled_dot_product_attention on 4-D
heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from vitc.graph import Rewriter, shape_of
from vitc.graph.nodes import is_tensor, same_shape, sole_user, val, where
from vitc.graph.program import Program
from vitc.pipeline import Pass, register_pass

aten = torch.ops.aten
sdpa = aten.scaled_dot_product_attention.default
_MATMUL = (aten.matmul.default, aten.bmm.default)
_VIEW = (aten.reshape.default,)


@dataclass
class _Scores:
    """q·kᵀ·scale·factors + biases: what enters a softmax. `factors`: tensors that scale whole heads, as Swin v2's
    temperature; `windows`: the windowed view, if a bias is per window."""

    product: Node
    scale: float
    factors: list[Node]
    biases: list[Node]
    windows: Node | None


@register_pass
@dataclass(frozen=True)
class FuseAttention(Pass):
    """Replaces matmul, softmax, matmul, with scale, bias or mask in any order, by one scaled_dot_product_attention.

    Softmaxes between which something else stands (talking heads, channel attention) are left alone, and the journal
    says so.
    """

    name = "fuse-attention"
    after = ("drop-noops", "fold-constants")

    def run(self, program: Program) -> Program:
        rewriter = Rewriter(program.module, self.name)
        notes: list[str] = []
        for node in list(program.graph.nodes):
            if node.target in (aten.softmax.int, aten._softmax.default):
                reason = _fuse(rewriter, node)
                if reason:
                    notes.append(f"{where(node)} is not fused: {reason}")
        rewriter.finish()
        for note in notes:
            program = program.note(note)
        return program


def _fuse(rewriter: Rewriter, softmax: Node) -> str | None:
    """Replaces the attention around one softmax; returns the reason if there is none."""
    rank = len(shape_of(softmax))
    if softmax.args[1] not in (-1, rank - 1):
        return f"softmax over dimension {softmax.args[1]}, not the keys"
    after = _skip_movement_like_casts(softmax)
    product = sole_user(after)
    if product is None or product.target not in _MATMUL or product.args[0] is not after:
        return "its result is not multiplied by v alone"
    terms = _scores(softmax.args[0])  # type: ignore[arg-type]
    if terms is None:
        return "its scores are not q·kᵀ with a scale and a bias"
    scores, biases = terms.product, terms.biases
    q, k_t = scores.args
    v = product.args[1]
    if rank not in (3, 4) or len(shape_of(scores)) != rank:
        return f"scores of rank {len(shape_of(scores))} and probabilities of rank {rank}"
    if any(len(shape_of(t)) != rank for t in (q, k_t, v)):  # type: ignore[arg-type]
        return "q, k and v have different ranks"
    q, q_scale = _unscaled(q)  # type: ignore[arg-type]
    k_t, k_scale = _unscaled(k_t)  # type: ignore[arg-type]
    if shape_of(q)[-1] != shape_of(v)[-1]:  # type: ignore[arg-type]
        return f"head size {shape_of(q)[-1]} of q and {shape_of(v)[-1]} of v differ"  # type: ignore[arg-type]
    with rewriter.at(product):
        for factor in terms.factors:
            q = rewriter.call(aten.mul.Tensor, q, factor)
        k = rewriter.call(aten.transpose.int, k_t, -2, -1)
        operands = [q, k, v]
        if rank == 3:  # heads are merged with the batch, or there is one
            operands = [rewriter.call(aten.unsqueeze.default, t, 1) for t in operands]
            biases = [rewriter.call(aten.unsqueeze.default, b, 1) if len(shape_of(b)) == 3 else b for b in biases]
        bias = _sum(rewriter, biases)
        if terms.windows is not None:
            repeats = rewriter.call(aten.sym_size.int, terms.windows, 0)
            bias = rewriter.call(aten.repeat.default, bias, [repeats, 1, 1, 1])
        fused = rewriter.call(sdpa, *operands, bias, scale=terms.scale * q_scale * k_scale)
        if rank == 3:
            fused = rewriter.call(aten.squeeze.dim, fused, 1)
    rewriter.replace(product, fused)
    return None


def _skip_movement_like_casts(node: Node) -> Node:
    user = sole_user(node)
    while user is not None and (user.target in (aten.type_as.default, aten._to_copy.default) or user.target in _VIEW):
        if val(user).dtype != val(node).dtype or not same_shape(shape_of(user), shape_of(node)):
            break
        node, user = user, sole_user(user)
    return node


def _scores(node: Node) -> _Scores | None:
    """Walks from the softmax's operand down to q·kᵀ, outermost term first."""
    found = _Scores(node, 1.0, [], [], None)
    while node.target not in _MATMUL:
        if not node.args or len(node.users) != 1:
            return None
        if node.target in (aten.mul.Tensor, aten.div.Tensor) and (factor := _scalar(node)) is not None:
            found.scale *= factor
        elif node.target is aten.mul.Tensor and is_tensor(node.args[1]) and _scales_heads(node.args[1]):  # type: ignore[arg-type]
            found.factors.append(node.args[1])  # type: ignore[arg-type]
        elif node.target is aten.add.Tensor and len(node.args) == 2 and not node.kwargs:
            left, right = node.args
            inner, bias = (left, right) if _leads_to_matmul(left) else (right, left)
            if not (is_tensor(inner) and is_tensor(bias)) or found.scale != 1.0 or found.factors:
                return None
            found.biases.append(bias)  # type: ignore[arg-type]
            node = inner  # type: ignore[assignment]
            continue
        elif node.target in _VIEW:
            windows = _window_bias(node)
            if windows is None or found.windows is not None:
                return None
            node, masks, found.windows = windows
            found.biases += masks
            continue
        else:
            return None
        node = node.args[0]  # type: ignore[assignment]
    found.product = node
    return found if len(node.users) == 1 else None


def _scales_heads(factor: Node) -> bool:
    """One number per head at most: [H, 1, 1] or [1, H, 1, 1]."""
    shape = shape_of(factor)
    return len(shape) in (3, 4) and shape[-2:] == (1, 1)


def _leads_to_matmul(node: Any) -> bool:
    while isinstance(node, Node) and node.op == "call_function":
        if node.target in _MATMUL:
            return True
        if node.target not in (aten.add.Tensor, aten.mul.Tensor, aten.div.Tensor, *_VIEW) or not node.args:
            return False
        node = node.args[0]
    return False


def _window_bias(view: Node) -> tuple[Node, list[Node], Node] | None:
    """Swin's mask: view(view(s, [B/W, W, H, N, N]) + mask[1, W, 1, N, N], s.shape) → (s, [mask], inner view).

    Swin v2 of transformers adds it twice; each addition counts.
    """
    inner: Any = view.args[0]
    masks: list[Node] = []
    while isinstance(inner, Node) and inner.target is aten.add.Tensor and len(inner.args) == 2:
        inner, mask = inner.args
        masks.append(mask)  # type: ignore[arg-type]
    if not masks or not all(is_tensor(n) for n in (inner, *masks)) or inner.target not in _VIEW:
        return None
    scores = inner.args[0]
    if not same_shape(shape_of(view), shape_of(scores)) or len(shape_of(inner)) != 5:
        return None
    return (scores, masks, inner) if all(map(_is_window_mask, masks)) else None


def _is_window_mask(mask: Node) -> bool:
    dims = shape_of(mask)
    return all(isinstance(d, int) for d in dims) and (len(dims) == 4 or (len(dims) == 5 and dims[0] == 1))


def _scalar(node: Node) -> float | None:
    value = node.args[1]
    if isinstance(value, Node):
        return None
    return float(value) if node.target is aten.mul.Tensor else 1.0 / float(value)  # type: ignore[arg-type]


def _unscaled(node: Node) -> tuple[Node, float]:
    """q·c → (q, c), looking only at the node itself."""
    if node.target in (aten.mul.Tensor, aten.div.Tensor) and (factor := _scalar(node)) is not None:
        return node.args[0], factor  # type: ignore[return-value]
    return node, 1.0


def _sum(rewriter: Rewriter, biases: list[Node]) -> Node | None:
    total: Node | None = None
    for bias in biases:
        if len(shape_of(bias)) == 5:
            bias = rewriter.call(aten.squeeze.dim, bias, 0)
        while len(shape_of(bias)) < 4:
            bias = rewriter.call(aten.unsqueeze.default, bias, 0)
        total = bias if total is None else rewriter.call(aten.add.Tensor, total, bias)
    return total
