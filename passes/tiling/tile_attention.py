"""tile-attention: scaled_dot_product_attention becomes vitc.attention, with the transposes around it absorbed.

The operands' way from the linear to the attention is only data movement. It is replayed on element indices (see
vitc.graph.movement) and compared with the three layouts the operator has, so any spelling of the head split is
recognized: packed [B, N, 3·H·D], [B, N, H·D] each, or, where something is computed in between (rotary embeddings,
q/k norms), [B, H, N, D].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.fx import GraphModule, Node

from vitc.errors import PassError
from vitc.graph import Rewriter, constant, shape_of
from vitc.graph.attention_call import AttentionCall
from vitc.graph.movement import ancestry, descendants, example_shape, indices, replay
from vitc.graph.nodes import is_constant, operand, where
from vitc.graph.ops import split_heads
from vitc.graph.program import Program
from vitc.graph.sdpa import SdpaCall
from vitc.kernels.tiles import choose_tile
from vitc.pipeline import Pass, register_pass

if TYPE_CHECKING:
    from vitc.targets import Target

aten = torch.ops.aten

#: What gives finite numbers for finite operands, whatever stands before it.
_FINITE = {
    aten.linear.default, aten.matmul.default, aten.bmm.default, aten.conv2d.default, aten.layer_norm.default,
    aten.softmax.int, aten.sigmoid.default, aten.tanh.default, aten.embedding.default,
}  # fmt: skip


@register_pass
@dataclass(frozen=True)
class TileAttention(Pass):
    """Replaces scaled_dot_product_attention by vitc.attention, which never holds the N×N matrix. Exact.

    tile_q: queries in one tile; 0 chooses from the target's shared memory (GPU) or cache (CPU).
    tile_k: keys in one tile; 0 likewise.
    """

    name = "tile-attention"
    needs = "canonical"
    gives = "tiled"

    tile_q: int = 0
    tile_k: int = 0

    def run(self, program: Program) -> Program:
        rewriter = Rewriter(program.module, self.name)
        layouts: dict[str, int] = {}
        for node in list(program.graph.nodes):
            if node.target is not aten.scaled_dot_product_attention.default:
                continue
            reason = _unsupported(program.module, node)
            if reason:
                program = program.note(f"{where(node)} stays decomposed: {reason}")
                _decompose(rewriter, node)
                continue
            layout = self._tile(program, rewriter, node)
            layouts[layout] = layouts.get(layout, 0) + 1
        rewriter.finish()
        found = ", ".join(f"{n} {layout}" for layout, n in sorted(layouts.items())) or "no attention"
        return program.note(f"tiled: {found}")

    def _tile(self, program: Program, rewriter: Rewriter, node: Node) -> str:
        target, images = program.target, _images(program)
        q, k, v, bias, scale = _operands(node)
        # By position the kernel skips what lies above the diagonal; other engines take the matrix as it is.
        causal = target.arch is not None and bias is not None and hides_later_keys(program.module, bias)
        heads, head_dim = shape_of(q)[1], shape_of(q)[3]
        layout, inputs = _layout(q, k, v)
        blocks = max(1, heads * example_shape(q)[0] // images)
        tile_q, tile_k = choose_tiles(target, example_shape(q)[2], example_shape(k)[2], head_dim, blocks)
        tile_q, tile_k = self.tile_q or tile_q, self.tile_k or tile_k
        with rewriter.at(node):
            if layout != "bhnd":
                inputs = [
                    _three_dims(rewriter, n, example_shape(t)[2]) for n, t in zip(inputs, (q, k, v), strict=False)
                ]
            given = None if causal else bias
            call = AttentionCall(q, k, v, given, heads, head_dim, scale, layout, tile_q, tile_k, causal=int(causal))
            new = call.with_parts(inputs).emit(rewriter)
        last = _merged_heads(node)
        if last is not None:
            rewriter.replace(last, new)
            return layout
        with rewriter.at(node):
            split = rewriter.call(aten.unflatten.int, new, -1, [heads, head_dim])
            rewriter.replace(node, rewriter.call(aten.transpose.int, split, 1, 2))
        return layout


def _images(program: Program) -> int:
    """The example's batch size; 1 if no input has one."""
    return next((int(t.shape[0]) for t in program.example_inputs if t.ndim), 1)


def _three_dims(rewriter: Rewriter, source: Node, tokens: int) -> Node:
    """[B, tokens, C] of a tensor with windows or rows and columns apart."""
    if len(shape_of(source)) == 3 and shape_of(source)[1] == tokens:
        return source
    return rewriter.call(aten.reshape.default, source, [-1, tokens, shape_of(source)[-1]])


def choose_tiles(target: Target, queries: int, keys: int, head_dim: int, heads: int) -> tuple[int, int]:
    """(tile_q, tile_k) for one image whose attention runs `heads` times (heads, or heads times windows).

    GPU: what the kernel's own table says, as one that the kernel has not would be ignored (vitc.kernels.tiles). CPU: a
    tile of FP32 scores with its operands in half of the L2 cache of a core.
    """
    if target.arch is not None:
        assert target.sm_count is not None  # Target has seen to it
        # FP16 here: whether INT8 follows is decided later, and its tiles fit wherever those of FP16 do.
        tile = choose_tile(target.arch, target.sm_count, head_dim, "fp16", "fp16", queries, heads).tile
        return tile.query_rows, tile.key_rows
    budget, tile_q, tile_k = target.tile_memory // 2, 256, 1024
    while tile_k > 32 and 4 * (tile_q * tile_k + head_dim * (tile_q + 2 * tile_k)) > budget:
        tile_q, tile_k = max(32, tile_q // 2) if tile_q > tile_k else tile_q, tile_k // 2
    return min(tile_q, _ceil(queries, 16)), min(tile_k, _ceil(keys, 16))


def _ceil(n: int, quantum: int) -> int:
    return (n + quantum - 1) // quantum * quantum


def _operands(node: Node) -> tuple[Node, Node, Node, Node | None, float]:
    call = SdpaCall.of(node)
    if call.causal or call.grouped or call.dropout:
        raise PassError(
            f"{where(node)} is causal, grouped or drops out; 'attention-4d' and 'simplify-mask' write the first two "
            "out, and dropout has no place in inference"
        )
    bias = call.mask
    if isinstance(bias, Node) and bias.target is aten.repeat.default and list(bias.args[1])[1:] == [1, 1, 1]:  # type: ignore[arg-type]
        bias = operand(bias)  # windows: the operator takes row b % Wb itself
    return call.q, call.k, call.v, bias, call.factor()


def _unsupported(module: GraphModule, node: Node) -> str | None:
    q, k, v, bias, _ = _operands(node)
    if len(shape_of(q)) != 4:
        return f"q has rank {len(shape_of(q))}, not 4"
    if shape_of(q)[1] != shape_of(k)[1] or shape_of(q)[-1] != shape_of(v)[-1] or shape_of(q)[0] != shape_of(k)[0]:
        return (
            f"q {list(shape_of(q))}, k {list(shape_of(k))} and v {list(shape_of(v))} differ in batch, heads or head"
            " size"
        )
    if not all(isinstance(d, int) for t in (q, k) for d in shape_of(t)[1:]):
        return "a dynamic dimension other than the batch"
    if bias is not None and not _bias_fits(bias, q, k):
        return f"a bias of shape {list(shape_of(bias))}"
    if bias is not None and may_hide_all_keys(module, bias):
        return "a mask that may leave a query without a key, for which torch gives 0"
    return None


def may_hide_all_keys(module: GraphModule, bias: Node) -> bool:
    """Whether a row of the bias may be −∞ throughout: known of a constant; of what is computed, −∞ must come from a
    logarithm, a choice, an input or a constant that has it."""
    if is_constant(bias):
        return bool(constant(module, bias).isneginf().all(-1).any())
    seen, queue = {bias}, [bias]
    while queue:
        node = queue.pop()
        if node.target in _FINITE:
            continue
        if node.op == "placeholder" or str(node.target).startswith("aten.log"):
            return True
        if is_constant(node) and bool(torch.isinf(constant(module, node)).any()):
            return True
        if any(isinstance(a, float) and math.isinf(a) for a in node.args):
            return True
        new = [n for n in node.all_input_nodes if n not in seen and _is_float(n)]
        seen.update(new)
        queue += new
    return False


def hides_later_keys(module: GraphModule, bias: Node) -> bool:
    """Whether a bias is a causal mask and nothing else: 0 where a key is no later than the query, and elsewhere −∞ or
    the lowest number there is, beside which any score counts for nothing."""
    while bias.target is aten.unsqueeze.default:
        bias = operand(bias)
    if not is_constant(bias) or not _is_float(bias):
        return False
    value = constant(module, bias)
    if value.ndim < 2 or value.numel() != value.shape[-2] * value.shape[-1]:
        return False
    later = torch.ones_like(value, dtype=torch.bool).triu(1)
    return bool((value[~later] == 0).all() and (value[later] <= torch.finfo(value.dtype).min).all())


def _is_float(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _bias_fits(bias: Node, q: Node, k: Node) -> bool:
    dims = shape_of(bias)
    if len(dims) != 4 or bias.meta["val"].dtype == torch.bool:
        return False
    return dims[1] in (1, shape_of(q)[1]) and dims[2:] == (shape_of(q)[2], shape_of(k)[2])


def _layout(q: Node, k: Node, v: Node) -> tuple[str, list[Node]]:
    """The cheapest layout the operands already have in memory, and the tensors that have it, up to a view."""
    batch, heads, tokens, head_dim = example_shape(q)
    packed = (batch, tokens, 3 * heads * head_dim)
    ups = [ancestry(t) for t in (q, k, v)]
    for source in (n for n in ups[0] if n in ups[1] and n in ups[2]):
        if not _is_view(source, packed):
            continue
        want = split_heads(indices(source).reshape(packed), None, None, heads, head_dim, "packed")
        got = [replay(t, source, indices(source)) for t in (q, k, v)]
        if all(torch.equal(w, g) for w, g in zip(want, got, strict=True)):
            return "packed", [source]
    sources = [_heads_last_source(t) for t in (q, k, v)]
    if all(s is not None for s in sources):
        return "bnhd", sources  # type: ignore[return-value]
    return "bhnd", [q, k, v]


def _is_view(source: Node, shape: tuple[int, int, int]) -> bool:
    """`source` has the elements of `shape`, in the same order: the same last dimension and number of elements."""
    own = example_shape(source)
    return len(own) >= 3 and own[-1] == shape[-1] and math.prod(own) == math.prod(shape)


def _heads_last_source(operand: Node) -> Node | None:
    """The tensor that is, up to a view, the operand [B, H, N, D] as [B, N, H·D]."""
    batch, heads, tokens, head_dim = example_shape(operand)
    for source in ancestry(operand)[1:]:
        if not _is_view(source, (batch, tokens, heads * head_dim)):
            continue
        start = indices(source)
        if torch.equal(start.reshape(batch, tokens, heads, head_dim).transpose(1, 2), replay(operand, source, start)):
            return source
    return None


def _merged_heads(node: Node) -> Node | None:
    """The later node that is the attention's [B, N, H·D], if the graph has it."""
    batch, heads, tokens, head_dim = example_shape(node)
    start = indices(node)
    want = start.transpose(1, 2).reshape(batch, tokens, heads * head_dim)
    for later in descendants(node):
        if example_shape(later) == tuple(want.shape) and torch.equal(replay(later, node, start), want):
            return later
    return None


def _decompose(rewriter: Rewriter, node: Node) -> None:
    """softmax(q·kᵀ·scale + bias)·v in plain ATen; with a mask a query that sees no key gets 0, as in torch."""
    q, k, v, bias, scale = _operands(node)
    softmax = aten.softmax.int if bias is None else aten._safe_softmax.default
    with rewriter.at(node):
        scores = rewriter.call(aten.matmul.default, q, rewriter.call(aten.transpose.int, k, -2, -1))
        scores = rewriter.call(aten.mul.Tensor, scores, scale)
        if bias is not None:
            if bias.meta["val"].dtype == torch.bool:
                zero = rewriter.call(aten.zeros_like.default, scores)
                bias = rewriter.call(aten.where.ScalarOther, bias, zero, float("-inf"))
            scores = rewriter.call(aten.add.Tensor, scores, bias)
        weights = rewriter.call(softmax, scores, -1)
        rewriter.replace(node, rewriter.call(aten.matmul.default, weights, v))
