"""A small ViT of twelve blocks through the real compiler, with a pass that breaks it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import nn

from vitc.calibration.source import calibration_stream
from vitc.explorer import Story
from vitc.explorer.collect import Recorder
from vitc.explorer.story import of_passes
from vitc.frontend.capture import capture
from vitc.graph.nodes import constant, is_constant
from vitc.graph.program import Program
from vitc.graph.rewriter import Rewriter
from vitc.lowering.lint import lint
from vitc.lowering.onnx.model import lower
from vitc.lowering.substitution import match
from vitc.lowering.substitution import replace as substitute
from vitc.pipeline import Pass
from vitc.pipeline.default import CANONICAL
from vitc.pipeline.instruments import Numerics
from vitc.pipeline.manager import run_pipeline
from vitc.pipeline.text import parse_pipeline
from vitc.targets import load

DEPTH, DIM, HEADS = 12, 64, 2


class Block(nn.Module):
    def __init__(self, wide: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        self.qkv, self.proj = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)
        hidden = (128 if wide else 4) * DIM
        self.mlp = nn.Sequential(nn.Linear(DIM, hidden), nn.GELU(), nn.Linear(hidden, DIM))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(b, n, 3, HEADS, c // HEADS).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.proj(mixed.transpose(1, 2).reshape(b, n, c))
        return x + self.mlp(self.norm2(x))


class SmallViT(nn.Module):
    """`slow`: a block with a wider MLP."""

    def __init__(self, depth: int = DEPTH, slow: int = 4) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, DIM, 8, 8)
        self.blocks = nn.ModuleList(Block(i == slow) for i in range(depth))
        self.norm, self.head = nn.LayerNorm(DIM), nn.Linear(DIM, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


@dataclass(frozen=True)
class ScaleNorm(Pass):
    """A wrong rewrite: it doubles the weight of one layer norm."""

    name = "scale-norm"
    needs = "canonical"

    def run(self, program: Program) -> Program:
        rewriter = Rewriter(program.module, self.name)
        norms = program.graph.find_nodes(op="call_function", target=torch.ops.aten.layer_norm.default)
        node = list(norms)[6]
        assert is_constant(node.args[2])
        with rewriter.at(node):
            weight = rewriter.parameter("doubled", 2 * constant(program.module, node.args[2]))
            new = rewriter.call(node.target, node.args[0], node.args[1], weight, *node.args[3:])
        rewriter.replace(node, new)
        rewriter.finish()
        return program


#: As a search under an accuracy budget reports it.
LEDGER = {
    "verdict": "INT8 in 11 of 12 blocks, within 0.005 of the score in floating point",
    "entries": [
        {
            "block": f"blocks.{i}",
            "choice": "floating point" if i == 7 else "INT8",
            "sqnr_db": 21.5 if i == 7 else 38.0,
            "agreement": None,
            "score_change": -0.031 if i == 7 else -0.0002,
            "saved_ms": 0.0125,
            "reason": "left out to keep the score within 0.005" if i == 7 else "taken: the score holds with it",
        }
        for i in range(DEPTH)
    ],
    "trials": [["floating point", 0.9], ["INT8 everywhere", 0.869], ["blocks.7 in floating point", 0.8985]],
}


@cache
def small_story(broken: bool = True, seed: int = 0) -> Story:
    """Twelve blocks, the fifth slower than the others; all INT8 but block 7; `broken`: one pass computes wrong."""
    torch.manual_seed(seed)
    program = capture(SmallViT().eval(), load("orin"), (torch.randn(2, 3, 32, 32),))
    recorder, watch = Recorder(), Numerics()
    middle: tuple[Pass, ...] = (ScaleNorm(),) if broken else ()
    after = run_pipeline(
        program.evolve(calibration=calibration_stream(torch.randn(4, 3, 32, 32), program, None)),
        (
            *parse_pipeline(",".join(CANONICAL)),
            *middle,
            *parse_pipeline("tile-attention,quantize-int8{calibrator=minmax,skip=[blocks.7]},to-fp16"),
        ),
        (recorder, watch),
    )
    model = lower(after)
    substitute(model.proto, match(model.proto))
    return of_passes(
        recorder.programs,
        title="small ViT" if broken else "small ViT, mended",
        report={"ledger": LEDGER},
        lint=lint(model.proto, after.target),
        origins=model.origins,
        deviations=watch.sequence,
    )
