"""window-attention: each token attends to its own block of tokens and an overlap on both sides, not to all.

Lossy, and so only where it is asked for: at high resolutions N² becomes N·(window + 2·overlap). Tokens are blocked in
the order they have (row by row), as local attention over sequences does it (Longformer, Beltagy et al., arXiv
2004.05150); class and register tokens in front attend to all and are seen by all, as its global tokens are. At the
image's ends a block sees the nearest `window + 2·overlap` tokens, so every block is alike and nothing is masked.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isqrt

import torch
from torch.fx import Node

from vitc.errors import InputError
from vitc.graph import Rewriter, shape_of
from vitc.graph.attention_call import AttentionCall
from vitc.graph.nodes import where
from vitc.graph.program import Program
from vitc.pipeline import Pass, register_pass

aten, ops = torch.ops.aten, torch.ops.vitc
#: More class and register tokens than any known ViT has.
_MOST_GLOBAL = 16


@register_pass
@dataclass(frozen=True)
class WindowAttention(Pass):
    """Limits each token's attention to its own block of tokens and an overlap on both sides. Lossy.

    window:        tokens in one block.
    overlap:       tokens seen beyond each end of the block.
    global_tokens: tokens in front that see and are seen by all; −1: as many as are left over from a square image.
    """

    name = "window-attention"
    needs = "tiled"
    after = ("tile-attention",)
    before = ("smooth-activations", "quantize-int8", "to-fp16")
    exact = False

    window: int = 256
    overlap: int = 64
    global_tokens: int = -1

    def run(self, program: Program) -> Program:
        if self.window < 1 or self.overlap < 0:
            raise InputError(f"window-attention needs window ≥ 1 and overlap ≥ 0, got {self.window} and {self.overlap}")
        rewriter = Rewriter(program.module, self.name)
        done = 0
        for node in list(program.graph.nodes):
            if node.target is not ops.attention.default:
                continue
            reason = self._refusal(node)
            if reason:
                program = program.note(f"{where(node)} stays exact: {reason}")
                continue
            self._rewrite(rewriter, node)
            done += 1
        rewriter.finish()
        return program.note(f"{done} attentions over windows of {self.window} tokens, {self.overlap} more on each side")

    def _global(self, tokens: int) -> int:
        if self.global_tokens >= 0:
            return self.global_tokens
        rest = tokens - isqrt(tokens) ** 2
        return rest if rest <= _MOST_GLOBAL else 0

    def _refusal(self, node: Node) -> str | None:
        call, tokens = AttentionCall.of(node), shape_of(node)[1]
        if call.bias is not None:
            return "it has a bias"
        if call.layout == "bhnd" or (call.k is not None and shape_of(call.k)[1] != tokens):
            return f"layout {call.layout} of {list(shape_of(call.q))}"
        image = tokens - self._global(tokens)
        if image <= self.window + 2 * self.overlap:
            return f"{image} tokens are no more than a window sees"
        if image % self.window:
            divisors = [d for d in range(1, image) if image % d == 0]
            near = sorted(divisors, key=lambda d: abs(d - self.window))[:2]
            return f"{image} tokens are no whole number of windows of {self.window}; {near[0]} and {near[1]} would be"
        return None

    def _rewrite(self, rewriter: Rewriter, node: Node) -> None:
        call = AttentionCall.of(node)
        apart = replace(call, layout="bnhd")
        tokens, width = shape_of(node)[1], call.width
        front = self._global(tokens)
        with rewriter.at(node):
            parts = list(call.parts)
            if call.packed:
                parts = [rewriter.call(aten.slice.Tensor, call.q, 2, i * width, (i + 1) * width) for i in range(3)]
            seen = _keys(tokens, front, self.window, self.overlap)
            index = rewriter.parameter(
                rewriter.unique_name(f"windows_{tokens}_{self.window}_{self.overlap}_{front}"), seen.flatten()
            )
            queries = rewriter.call(aten.slice.Tensor, parts[0], 1, front, tokens) if front else parts[0]
            blocks = [rewriter.call(aten.reshape.default, queries, [-1, self.window, width])]
            for part in parts[1:]:
                gathered = rewriter.call(aten.index_select.default, part, 1, index)
                blocks.append(rewriter.call(aten.reshape.default, gathered, [-1, seen.shape[1], width]))
            local = apart.with_parts(blocks).emit(rewriter)
            result = rewriter.call(aten.reshape.default, local, [-1, tokens - front, width])
            if front:
                whole = rewriter.call(aten.slice.Tensor, parts[0], 1, 0, front)
                everywhere = apart.with_parts([whole, *parts[1:]]).emit(rewriter)
                result = rewriter.call(aten.cat.default, [everywhere, result], 1)
        rewriter.replace(node, result)


def _keys(tokens: int, front: int, window: int, overlap: int) -> torch.Tensor:
    """[blocks, front + window + 2·overlap] int64: the tokens that each block sees."""
    size = window + 2 * overlap
    starts = torch.arange(front, tokens, window) - overlap
    starts = starts.clamp(front, tokens - size)
    local = starts[:, None] + torch.arange(size)
    return torch.cat([torch.arange(front).expand(len(starts), front), local], 1)
