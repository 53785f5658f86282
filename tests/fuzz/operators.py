"""Random graphs of ATen operators: equal to eager PyTorch on every CPU engine, or refused by name.

    python tests/fuzz/operators.py --graphs 2000 [--seed 0] [--engine onnxruntime]

A graph is a chain of operators, each drawn with its arguments from a seeded generator. The inputs are multiples of
1/4: what jumps (rounding, comparing, sorting) stands only where all before it is exact, so that no engine's rounding
decides.
"""

from __future__ import annotations

import argparse
import collections
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitc.errors import VitcError
from vitc.frontend.capture import capture
from vitc.graph.program import BatchRange
from vitc.lowering.cpu import open_engine
from vitc.lowering.cpu.choose import ENGINES
from vitc.lowering.onnx.model import OnnxModel, lower
from vitc.pipeline.default import structure_passes
from vitc.pipeline.manager import run_pipeline
from vitc.targets import load as load_target

Step = Callable[[Tensor], Tensor]
#: What draws a step for a tensor: (generator, example) → the step; None where the example's shape does not suit.
Recipe = Callable[[random.Random, Tensor], "Step | None"]

EXACT: list[Recipe] = []
"""Steps that give exactly representable numbers for such, among them all that jump."""
SMOOTH: list[Recipe] = []
"""Steps that round."""


def exact(recipe: Recipe) -> Recipe:
    EXACT.append(recipe)
    return recipe


def smooth(recipe: Recipe) -> Recipe:
    SMOOTH.append(recipe)
    return recipe


def _dim(rng: random.Random, x: Tensor, first: int = 1) -> int:
    """A dimension behind the batch, from the front or from the end."""
    dim = rng.randrange(first, x.ndim)
    return dim if rng.random() < 0.5 else dim - x.ndim


# --- exact ----------------------------------------------------------------------------------------------------------


@exact
def _elementwise(rng: random.Random, x: Tensor) -> Step:
    number = rng.choice([-2.0, -0.5, 0.25, 1.0, 3.0])
    return rng.choice([
        lambda t: t.abs(), lambda t: -t, lambda t: t.relu(), lambda t: t.sign(), lambda t: t.floor(),
        lambda t: t.ceil(),
        lambda t: t.round(), lambda t: t.trunc(), lambda t: t + number, lambda t: t * number, lambda t: number - t,
        lambda t: torch.add(t, t, alpha=number), lambda t: torch.sub(t, number, alpha=2),
        lambda t: t.clamp(-1, number + 3),
        lambda t: t.clamp(max=number), lambda t: F.hardtanh(t, -0.5, 0.75), lambda t: t.square(),
        lambda t: torch.where(t > number, t, number), lambda t: t.masked_fill(t < number, 0.5),
        lambda t: torch.maximum(t, t.flip(1)), lambda t: F.threshold(t, 0.25, number), lambda t: F.leaky_relu(t, 0.25),
    ])  # fmt: skip


@exact
def _whole_numbers(rng: random.Random, x: Tensor) -> Step:
    dtype = rng.choice([torch.int32, torch.int64])
    by = rng.choice([-3, 2, 5])
    return rng.choice([
        lambda t: (t * 4).to(dtype).floor_divide(by).float(), lambda t: torch.remainder((t * 4).to(dtype), by).float(),
        lambda t: torch.div((t * 4).to(dtype), by, rounding_mode="trunc").float(),
        lambda t: ((t * 4).to(dtype) & 5).float(),
        lambda t: torch.fmod((t * 4).to(dtype), by).float(), lambda t: (~(t * 4).to(dtype)).float(),
        lambda t: ((t * 4).to(dtype) | 3).float(), lambda t: ((t * 4).to(dtype) ** 2).float(),
        lambda t: ((t * 4).to(dtype).clamp(-by, 7)).float(),
    ])  # fmt: skip


@exact
def _masks(rng: random.Random, x: Tensor) -> Step:
    dim = _dim(rng, x)
    return rng.choice([
        lambda t: ((t > 0) & (t < 1)).float(), lambda t: ((t > 0) | (t == -0.5)).float(),
        lambda t: ((t > 0) ^ (t > 1)).float(),
        lambda t: (~(t > 0)).float() * t, lambda t: ((t >= 0) * (t != 1)).float(),
        lambda t: t * (t > 1).any(dim, keepdim=True),
        lambda t: t * (t > -2).all(dim, keepdim=True), lambda t: (t > 0).sum(dim, keepdim=True) + t,
        lambda t: (t > 0).cumsum(dim).float(), lambda t: torch.logical_xor(t > 0, t < 1).float(),
    ])  # fmt: skip


@exact
def _moved(rng: random.Random, x: Tensor) -> Step:
    a, b, n = _dim(rng, x), _dim(rng, x), rng.randrange(1, 4)
    return rng.choice([
        lambda t: t.transpose(a, b), lambda t: t.flip(a), lambda t: t.roll(n, a), lambda t: t.unsqueeze(a).squeeze(a),
        lambda t: t.repeat_interleave(2, a), lambda t: torch.cat([t, t * 2], a),
        lambda t: torch.stack([t, -t], a).sum(a),
        lambda t: t.flatten(1), lambda t: t.narrow(a, 0, 1).expand_as(t), lambda t: t.chunk(2, a)[0],
        lambda t: torch.cat(t.unbind(a)[:2], -1) if t.ndim > 2 else t, lambda t: t[..., ::2], lambda t: t[:, -1:],
        lambda t: t.repeat(1, *[2 if i == t.ndim - 2 else 1 for i in range(t.ndim - 1)]), lambda t: t.movedim(a, 1),
    ])  # fmt: skip


@exact
def _indexed(rng: random.Random, x: Tensor) -> Step:
    dim = _dim(rng, x)
    size = x.shape[dim]
    index = torch.tensor([rng.randrange(-size, size) for _ in range(3)])
    front = index % size
    return rng.choice([
        lambda t: t.index_select(dim, front), lambda t: t.movedim(dim, 0)[index].movedim(0, dim),
        lambda t: t.gather(dim, (t > 0).long() % size), lambda t: t.movedim(dim, 1)[:, index, ..., :1],
        lambda t: t.sort(dim, stable=True)[0], lambda t: t.topk(min(2, size), dim)[0],
        lambda t: t.amax(dim, keepdim=True) - t,
        lambda t: t.amin(dim), lambda t: t.max(dim, keepdim=True)[0] + t, lambda t: t.unfold(dim, min(2, size), 1),
        lambda t: t.scatter(dim, torch.zeros_like(t, dtype=torch.long), 0.5), lambda t: t.select(dim, -1).unsqueeze(1),
        lambda t: t[torch.arange(t.shape[0]), 0].unsqueeze(1), lambda t: torch.index_fill(t, dim, front, 2.0),
        lambda t: t.index_add(dim, front, t.index_select(dim, front)), lambda t: t.diff(dim=dim),
    ] if size > 1 else [lambda t: t.select(dim, 0).unsqueeze(1)])  # fmt: skip


@exact
def _written(rng: random.Random, x: Tensor) -> Step:
    number = rng.choice([0.5, -1.0])

    def step(t: Tensor) -> Tensor:
        y = t.clone()
        if kind == 0:
            y[:, 0] = number
        elif kind == 1:
            y[..., ::2] = y[..., ::2] * 2
        elif kind == 2:
            y[y > number] = 0.25
        else:
            y[:, -1:] += 1
        return y

    kind = rng.randrange(4)
    return step


@exact
def _padded(rng: random.Random, x: Tensor) -> Step | None:
    pads = [rng.randrange(0, 3) for _ in range(2)]
    mode = rng.choice(["constant", "reflect", "replicate", "circular"])
    if mode != "constant" and (x.ndim not in (3, 4) or x.shape[-1] < 3):
        return None
    if mode == "constant":
        value = rng.choice([0.0, 1.5])
        pads = [p - 1 for p in pads] if x.shape[-1] > 3 else pads
        return lambda t: F.pad(t, pads, value=value)
    both = pads if x.ndim == 3 else [*pads, 0, 0]
    return lambda t: F.pad(t, both, mode=mode)


@exact
def _max_pooled(rng: random.Random, x: Tensor) -> Step | None:
    if x.ndim != 4 or min(x.shape[-2:]) < 3:
        return None
    stride, padding, ceil = rng.randrange(1, 4), rng.randrange(0, 2), rng.random() < 0.5
    if rng.random() < 0.3:
        size = rng.randrange(1, 4)
        return lambda t: F.adaptive_max_pool2d(t, size)
    return lambda t: F.max_pool2d(t, 3, stride, padding, 1, ceil)


@exact
def _shuffled(rng: random.Random, x: Tensor) -> Step | None:
    if x.ndim != 4 or min(x.shape[-2:]) < 3:
        return None
    choices: list[Step] = [
        lambda t: F.unfold(t, 2, padding=1, stride=2), lambda t: F.interpolate(t, scale_factor=1.5, mode="nearest"),
        lambda t: F.interpolate(t, 5, mode="nearest-exact"),
        lambda t: F.interpolate(t, scale_factor=2.0, mode="nearest"),
    ]  # fmt: skip
    if x.shape[1] % 4 == 0:
        choices.append(lambda t: F.pixel_shuffle(t, 2))
    return rng.choice(choices)


# --- with rounding --------------------------------------------------------------------------------------------------


@smooth
def _curve(rng: random.Random, x: Tensor) -> Step:
    a = rng.choice([0.3, 1.0, 2.0])
    return rng.choice([
        lambda t: t.sigmoid(), lambda t: t.tanh(), lambda t: (t * 0.1).exp(), lambda t: t.abs().add(1).log(),
        lambda t: t.sin(),
        lambda t: t.cos(), lambda t: F.gelu(t), lambda t: F.gelu(t, approximate="tanh"), lambda t: F.silu(t),
        lambda t: F.elu(t, a),
        lambda t: F.softplus(t, a, 2.0), lambda t: F.hardswish(t), lambda t: F.selu(t), lambda t: F.celu(t, a),
        lambda t: F.mish(t),
        lambda t: t.abs().add(0.5).rsqrt(), lambda t: t / 3.0, lambda t: t.abs().add(1).log1p(), lambda t: t.atan(),
        lambda t: t.erf(),
        lambda t: F.logsigmoid(t), lambda t: F.softsign(t), lambda t: t.abs().add(0.5).pow(a),
        lambda t: t.lerp(t.flip(1), 0.3),
        lambda t: torch.addcmul(t, t, t, value=0.1), lambda t: F.hardsigmoid(t), lambda t: torch.expm1(t * 0.1),
    ])  # fmt: skip


@smooth
def _reduced(rng: random.Random, x: Tensor) -> Step:
    dim, keep = _dim(rng, x), True
    return rng.choice([
        lambda t: t.mean(dim, keepdim=keep), lambda t: t.sum(dim, keepdim=keep),
        lambda t: t.var(dim, keepdim=keep, correction=0),
        lambda t: t.std(dim, keepdim=keep) if t.shape[dim] > 1 else t, lambda t: t.softmax(dim),
        lambda t: t.log_softmax(dim),
        lambda t: t.logsumexp(dim, keepdim=keep), lambda t: t.norm(dim=dim, keepdim=keep), lambda t: t.cumsum(dim),
        lambda t: F.normalize(t + 3, dim=dim), lambda t: torch.linalg.vector_norm(t, float("inf"), dim, keepdim=keep),
        lambda t: torch.var_mean(t, dim, correction=0, keepdim=keep)[1], lambda t: (t * 0.1).prod(dim, keepdim=keep),
    ])  # fmt: skip


@smooth
def _normed(rng: random.Random, x: Tensor) -> Step | None:
    eps = rng.choice([1e-5, 1e-3])
    width = x.shape[-1]
    weight = torch.linspace(0.5, 1.5, width)
    choices: list[Step] = [
        lambda t: F.layer_norm(t, (width,), weight, None, eps),
        lambda t: F.rms_norm(t, (width,), weight, eps),
    ]
    if x.ndim > 2 and x.shape[1] % 2 == 0:
        choices.append(lambda t: F.group_norm(t, 2, None, None, eps))
    return rng.choice(choices)


@smooth
def _avg_pooled(rng: random.Random, x: Tensor) -> Step | None:
    if x.ndim != 4 or min(x.shape[-2:]) < 3:
        return None
    stride, padding = rng.randrange(1, 4), rng.randrange(0, 2)
    ceil, count, divisor = rng.random() < 0.5, rng.random() < 0.5, rng.choice([None, 5])
    if rng.random() < 0.3:
        size = (rng.randrange(1, 5), rng.randrange(1, 5))
        return lambda t: F.adaptive_avg_pool2d(t, size)
    return lambda t: F.avg_pool2d(t, 3, stride, padding, ceil, count, divisor)


@smooth
def _resized(rng: random.Random, x: Tensor) -> Step | None:
    if x.ndim != 4 or min(x.shape[-2:]) < 3:
        return None
    mode = rng.choice(["bilinear", "bicubic"])
    corners, smoothed = rng.random() < 0.3, rng.random() < 0.3
    if rng.random() < 0.5:
        size = (rng.randrange(2, 9), rng.randrange(2, 9))
        return lambda t: F.interpolate(t, size, mode=mode, align_corners=corners, antialias=smoothed)
    factor = rng.choice([0.6, 1.3, 2.0])
    return lambda t: F.interpolate(t, scale_factor=factor, mode=mode, align_corners=corners)


@smooth
def _multiplied(rng: random.Random, x: Tensor) -> Step:
    width = x.shape[-1]
    weight = torch.linspace(-1, 1, width * 4).reshape(4, width)
    choices: list[Step] = [
        lambda t: F.linear(t, weight), lambda t: t @ t.transpose(-1, -2) * 0.1 if t.ndim > 2 else t,
        lambda t: torch.einsum("b...c,oc->b...o", t, weight),
    ]  # fmt: skip
    if x.ndim == 4:
        kernel = torch.linspace(-1, 1, x.shape[1] * 2 * 9).reshape(2, x.shape[1], 3, 3)
        turned, stride, dilation = kernel.transpose(0, 1), rng.randrange(1, 3), rng.randrange(1, 3)
        choices += [
            lambda t: F.conv2d(t, kernel, stride=stride, padding=2, dilation=dilation),
            lambda t: F.conv2d(t, kernel, padding="same"),
            lambda t: F.conv_transpose2d(t, turned, stride=stride, padding=1, output_padding=stride - 1),
        ]  # fmt: skip
    return rng.choice(choices)


@smooth
def _attended(rng: random.Random, x: Tensor) -> Step | None:
    if x.ndim not in (3, 4) or x.shape[-2] < 2:
        return None
    kind = rng.randrange(4)
    n = x.shape[-2]
    mask = torch.ones(n, n, dtype=torch.bool).tril()
    mask[n // 2] = kind == 2  # a query without a key
    bias = torch.linspace(-1, 1, n * n).reshape(n, n)
    given: list[dict[str, Any]] = [{}, {"is_causal": True}, {"attn_mask": mask}, {"attn_mask": bias, "scale": 0.3}]
    return lambda t: F.scaled_dot_product_attention(t, t * 0.5, t, **given[kind])


# --- the graph ------------------------------------------------------------------------------------------------------


class Chain(nn.Module):
    def __init__(self, steps: list[Step]) -> None:
        super().__init__()
        self.steps = steps

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step(x)
        return x


def inputs(shape: tuple[int, ...], batch: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-12, 13, (batch, *shape), generator=generator).float() / 4


def chain(seed: int) -> tuple[Chain, tuple[int, ...]]:
    """The graph of a seed, and the shape of one image that it takes."""
    rng = random.Random(seed)
    shape = rng.choice([(6,), (4, 6), (5, 4), (4, 8, 8), (4, 7, 5)])
    x, steps, rounds = inputs(shape, 3, seed), [], False
    for _ in range(rng.randrange(2, 6)):
        smoothly = rounds or rng.random() < 0.4
        recipe = rng.choice(SMOOTH if smoothly else EXACT)
        step = recipe(rng, x)
        try:
            y = step(x) if step is not None else None
        except (RuntimeError, IndexError, ValueError):  # a shape that the operator does not take
            continue
        if y is None or y.ndim < 2 or y.shape[0] != 3 or not 0 < y.numel() < 20_000 or not bool(y.isfinite().all()):
            continue
        if float(y.abs().max()) > 1e4:
            continue
        x, rounds = y, rounds or recipe in SMOOTH
        steps.append(step)
    return Chain(steps).eval(), shape  # type: ignore[arg-type]


@dataclass(frozen=True)
class Outcome:
    """What became of one graph on one engine: 'equal', 'refused' with the reason, or 'wrong' with what differs."""

    seed: int
    engine: str
    verdict: str
    why: str = ""


def judge(seed: int, engines: tuple[str, ...] = ENGINES) -> list[Outcome]:
    """Compiles the graph of a seed and compares it with eager PyTorch at two batch sizes."""
    model, shape = chain(seed)
    try:
        program = capture(model, load_target("cpu"), inputs(shape, 3, seed), BatchRange(1, 8))
        lowered = lower(run_pipeline(program, structure_passes()))
    except VitcError as error:
        return [Outcome(seed, engine, "refused", str(error)) for engine in engines]
    return [_on(engine, seed, model, shape, lowered) for engine in engines]


def _on(engine: str, seed: int, model: Chain, shape: tuple[int, ...], lowered: OnnxModel) -> Outcome:
    try:
        opened = open_engine(lowered.proto.SerializeToString(), engine)
    except VitcError as error:
        return Outcome(seed, engine, "refused", str(error))
    for batch in (3, 2):
        x = inputs(shape, batch, seed + batch)
        with torch.no_grad():
            want = model(x).numpy()
        got = opened.run({lowered.inputs[0].name: x.numpy()})[lowered.outputs[0].name]
        if got.shape != want.shape or got.dtype != want.dtype:
            return Outcome(seed, engine, "wrong", f"{got.dtype}{got.shape} for {want.dtype}{want.shape}")
        if not np.allclose(got, want, rtol=1e-4, atol=1e-4 * max(1.0, float(np.abs(want).max())), equal_nan=True):
            return Outcome(seed, engine, "wrong", f"batch {batch}: by {float(np.abs(got - want).max()):.3g}")
    return Outcome(seed, engine, "equal")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graphs", type=int, default=2000, help="how many graphs (2000)")
    parser.add_argument("--seed", type=int, default=0, help="the first one's seed (0)")
    parser.add_argument("--engine", choices=ENGINES, help="one engine instead of all")
    options = parser.parse_args()
    engines = (options.engine,) if options.engine else ENGINES
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    for seed in range(options.seed, options.seed + options.graphs):
        for outcome in judge(seed, engines):
            counts[outcome.engine, outcome.verdict] += 1
            if outcome.verdict == "wrong":
                print(f"seed {seed} on {outcome.engine}: {outcome.why}", flush=True)
    for (engine, verdict), count in sorted(counts.items()):
        print(f"{engine}: {count} {verdict}")
    return int(any(verdict == "wrong" for _, verdict in counts))


if __name__ == "__main__":
    sys.exit(main())
