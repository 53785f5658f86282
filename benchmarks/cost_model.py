"""Predicted against published latency of plain ViTs, for every public figure with a recipe.

    python benchmarks/cost_model.py            # the Markdown table of docs/cost-model.md
    python benchmarks/cost_model.py --blocks vit_b orin int8    # one prediction, block by block

No GPU and no torch: the records are written down from the architecture.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from statistics import median
from typing import cast, get_args

from vitc import targets
from vitc.cost import OpCost, Prediction, predict
from vitc.cost.records import Dtype

_BYTES = {"int8": 1, "int8+fp16": 1, "fp16": 2, "fp32": 4}


@dataclass(frozen=True)
class Vit:
    """A plain Vision Transformer with a class token, as timm and the ViT paper have it."""

    dim: int
    depth: int
    heads: int
    image: int = 224
    patch: int = 16
    mlp: int = 4
    classes: int = 1000

    @property
    def tokens(self) -> int:
        return (self.image // self.patch) ** 2 + 1


VITS = {
    "vit_s": Vit(384, 12, 6),
    "vit_b": Vit(768, 12, 12),
    "vit_b_384": Vit(768, 12, 12, image=384),
    "vit_l": Vit(1024, 24, 16),
    "vit_l_384": Vit(1024, 24, 16, image=384),
}


def analytic_vit(
    vit: Vit,
    batch: int = 1,
    dtype: Dtype = "fp16",
    attention: Dtype | None = None,
    epilogues: bool = True,
    fused_tokens: int | None = None,
) -> list[OpCost]:
    """The records of `vit`, by default as a good engine runs it: seven kernels a block.

    `dtype` is that of the linear layers, `attention` of QKᵀ and P·V (default: the same); the residual stream
    and what is between stays in FP16, or in FP32 when `dtype` is. Without `epilogues` the bias of QKV and the
    GELU are kernels of their own, as around a library's GEMM. Attention is one kernel up to `fused_tokens`
    tokens (None: at any length), three above.
    """
    plan = _Plan(vit, batch, dtype, attention or dtype, epilogues, fused_tokens is None or vit.tokens <= fused_tokens)
    return list(plan.records())


@dataclass(frozen=True)
class _Plan:
    vit: Vit
    batch: int
    dtype: Dtype
    attention: Dtype
    epilogues: bool
    fused_attention: bool

    @property
    def rows(self) -> int:
        return self.batch * self.vit.tokens

    @property
    def width(self) -> int:
        return _BYTES[self.dtype]

    @property
    def stream(self) -> int:
        """Bytes of a value of the residual stream."""
        return 4 if self.dtype == "fp32" else 2

    def gemm(self, name: str, module: str, rows: int, columns: int, depth: int, out: int) -> OpCost:
        return OpCost(
            name,
            module,
            "gemm",
            self.dtype,
            flops=2.0 * rows * columns * depth,
            bytes_read=rows * depth * self.width,
            bytes_written=rows * columns * out,
            weight_bytes=columns * depth * self.width + 4 * columns,
            shape=(1, rows, columns, depth),
        )

    def pointwise(
        self, name: str, module: str, inputs: int, flops: int, out: int, columns: int, fused: bool = False
    ) -> OpCost:
        values = self.rows * columns
        return OpCost(
            name,
            module,
            "norm" if "norm" in name else "elementwise",
            "fp32" if self.dtype == "fp32" else "fp16",
            flops=float(flops * values),
            bytes_read=inputs * values * self.stream,
            bytes_written=values * out,
            weight_bytes=8 * columns if "norm" in name else 0,
            fused_into_previous=fused,
        )

    def records(self) -> Iterator[OpCost]:
        vit, dim = self.vit, self.vit.dim
        patches = self.batch * (vit.tokens - 1)
        embed = self.gemm("patch_embed", "patch_embed.proj", patches, dim, 3 * vit.patch**2, self.stream)
        yield replace(embed, kind="conv")
        yield self.pointwise("pos_embed", "pos_embed", 2, 1, self.stream, dim)
        for i in range(vit.depth):
            yield from self.block(f"blocks.{i}")
        yield self.pointwise("norm", "norm", 1, 8, self.stream, dim, fused=True)
        yield self.gemm("head", "head", self.batch, vit.classes, dim, self.stream)

    def block(self, block: str) -> Iterator[OpCost]:
        dim, hidden = self.vit.dim, self.vit.mlp * self.vit.dim
        # The residual add before a norm and the norm are one kernel; the first norm joins the block before.
        yield self.pointwise("norm1", f"{block}.norm1", 1, 8, self.width, dim, fused=True)
        yield self.gemm("qkv", f"{block}.attn.qkv", self.rows, 3 * dim, dim, _BYTES[self.attention])
        if not self.epilogues:
            yield self.pointwise("bias", f"{block}.attn.qkv", 1, 1, _BYTES[self.attention], 3 * dim)
        yield from self.attention_records(f"{block}.attn")
        yield self.gemm("proj", f"{block}.attn.proj", self.rows, dim, dim, self.stream)
        yield self.pointwise("add1", block, 2, 1, self.stream, dim)
        yield self.pointwise("norm2", f"{block}.norm2", 1, 8, self.width, dim, fused=True)
        yield self.gemm("fc1", f"{block}.mlp.fc1", self.rows, hidden, dim, self.stream)
        yield self.pointwise("gelu", f"{block}.mlp.act", 1, 10, self.width, hidden, fused=self.epilogues)
        yield self.gemm("fc2", f"{block}.mlp.fc2", self.rows, dim, hidden, self.stream)
        yield self.pointwise("add2", block, 2, 1, self.stream, dim)

    def attention_records(self, module: str) -> Iterator[OpCost]:
        vit, tokens = self.vit, self.vit.tokens
        maps, head_dim = self.batch * vit.heads, vit.dim // vit.heads
        half = 2.0 * maps * tokens * tokens * head_dim
        qkv = self.rows * vit.dim * _BYTES[self.attention]
        out = self.rows * vit.dim * self.width
        scores = maps * tokens * tokens * self.stream
        if self.fused_attention:
            shape = (maps, tokens, tokens, head_dim)
            yield OpCost("attention", module, "attention", self.attention, 2 * half, 3 * qkv, out, shape=shape)
            return
        wide, tall = (maps, tokens, tokens, head_dim), (maps, tokens, head_dim, tokens)
        yield OpCost("qk", module, "gemm", self.attention, half, 2 * qkv, scores, shape=wide)
        softmax = float(8 * maps * tokens * tokens)
        yield OpCost("softmax", module, "elementwise", "fp16", softmax, scores, scores)
        yield OpCost("pv", module, "gemm", self.attention, half, scores + qkv, out, shape=tall)


@dataclass(frozen=True)
class Published:
    """A latency somebody measured and said how."""

    target: str
    vit: str
    batch: int
    dtype: Dtype
    ms: float
    source: str
    attention: Dtype | None = None
    library: bool = False  # GEMMs of a library: no fused epilogues, fused attention up to 384 tokens
    fitted: bool = False  # a figure of the target file, or a constant of the model, comes from this one


_AIT = "AITemplate examples/04_vit, A100-40GB, CUDA 11.6"
_FT = "FasterTransformer docs/vit_guide.md, CUDA 11.4"
_NANO = "onnxsim scripts/nvidia, TensorRT 10.3, trtexec --noDataTransfers, MAXN_SUPER"


def _published() -> Iterator[Published]:
    yield Published("orin-nano", "vit_b", 1, "fp32", 13.65, _NANO)
    yield Published("orin-nano", "vit_b", 1, "fp16", 5.68, _NANO)
    yield Published("orin-nano", "vit_b", 1, "int8", 4.92, _NANO + "; INT8 in the linears only", attention="fp16")
    ait = {1: 1.02, 2: 1.15, 4: 1.57, 8: 2.20, 16: 3.64, 32: 6.51, 64: 12.67, 128: 25.10, 256: 48.55}
    for batch, ms in ait.items():
        yield Published("a100", "vit_b", batch, "fp16", ms, _AIT, fitted=True)
    ait_l = {1: 3.84, 2: 5.87, 4: 11.49, 8: 19.09, 16: 36.19, 32: 70.03, 64: 135.25, 128: 267.09, 256: 538.97}
    for batch, ms in ait_l.items():
        yield Published("a100", "vit_l_384", batch, "fp16", ms, _AIT)
    for (target, vit, dtype), latencies in _FT_LATENCIES.items():
        for batch, ms in latencies.items():
            fitted = vit == "vit_b" and batch == 32 and (target, dtype) != ("a100", "fp16")
            yield Published(target, vit, batch, dtype, ms, _FT, library=True, fitted=fitted)


def _ft(*latencies: float) -> dict[int, float]:
    return dict(zip((1, 8, 16, 32), latencies, strict=True))


_FT_LATENCIES: dict[tuple[str, str, Dtype], dict[int, float]] = {
    ("a100", "vit_b", "fp16"): _ft(1.53, 3.03, 5.30, 10.04),
    ("a100", "vit_b", "int8"): _ft(1.52, 2.38, 3.74, 6.43),
    ("a100", "vit_b_384", "fp16"): _ft(2.24, 11.14, 21.50, 43.81),
    ("a100", "vit_b_384", "int8"): _ft(2.26, 7.93, 14.66, 29.07),
    ("a100", "vit_l", "fp16"): _ft(2.97, 8.09, 15.03, 29.66),
    ("a100", "vit_l", "int8"): _ft(2.91, 5.44, 9.23, 17.28),
    ("a100", "vit_l_384", "fp16"): _ft(5.36, 30.95, 60.99, 124.85),
    ("a100", "vit_l_384", "int8"): _ft(4.77, 20.25, 39.43, 80.05),
    ("t4", "vit_b", "fp16"): _ft(3.43, 14.46, 28.77, 57.22),
    ("t4", "vit_b", "int8"): _ft(2.16, 8.37, 16.67, 35.43),
    ("t4", "vit_b_384", "fp16"): _ft(8.53, 61.07, 123.55, 253.20),
    ("t4", "vit_b_384", "int8"): _ft(4.93, 36.40, 74.94, 150.31),
    ("t4", "vit_l", "fp16"): _ft(9.69, 47.55, 90.30, 171.89),
    ("t4", "vit_l", "int8"): _ft(5.04, 24.38, 47.29, 101.25),
    ("t4", "vit_l_384", "fp16"): _ft(23.45, 177.54, 358.70, 748.81),
    ("t4", "vit_l_384", "int8"): _ft(13.10, 103.66, 211.89, 425.36),
}


def prediction_for(row: Published) -> Prediction:
    # FasterTransformer's getAttentionType: fused for head size 64 and at most 384 tokens.
    tokens = 384 if row.library else None
    records = analytic_vit(VITS[row.vit], row.batch, row.dtype, row.attention, not row.library, tokens)
    return predict(records, targets.load(row.target))


def _table() -> str:
    lines = [
        "| target | model | batch | precision | published ms | predicted ms | error | source |",
        "|---|---|---|---|---|---|---|---|",
    ]
    errors = []
    for row in _published():
        predicted = prediction_for(row).ms
        error = predicted / row.ms - 1
        if not row.fitted:
            errors.append(abs(error))
        mark = " (fitted)" if row.fitted else ""
        figures = f"{row.ms:.2f} | {predicted:.2f} | {error:+.0%}{mark}"
        lines.append(f"| {row.target} | {row.vit} | {row.batch} | {row.dtype} | {figures} | {row.source} |")
    summary = f"median error {median(errors):.0%}, largest {max(errors):.0%}"
    return "\n".join([*lines, "", f"{len(errors)} figures that nothing was fitted to: {summary}."])


def main(arguments: list[str]) -> int:
    if not arguments:
        print(_table())
        return 0
    vits, dtypes = ",".join(VITS), ",".join(get_args(Dtype))
    if (
        len(arguments) != 4
        or arguments[0] != "--blocks"
        or arguments[1] not in VITS
        or arguments[3] not in get_args(Dtype)
    ):
        print(f"usage: cost_model.py [--blocks {{{vits}}} TARGET {{{dtypes}}}]", file=sys.stderr)
        return 2
    _, vit, target, dtype = arguments
    print(predict(analytic_vit(VITS[vit], 1, cast("Dtype", dtype)), targets.load(target)).text())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
