"""What INT8 at some sites does to a program, measured on calibration images from the site onwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from vitc.cost import block_of, predict
from vitc.cost.count import op_costs
from vitc.errors import CalibrationError, MissingDependencyError, PipelineError, TargetError
from vitc.graph import module_path
from vitc.graph.program import Program
from vitc.lowering.cpu.rates import measured_here
from vitc.mixed.prefix import Prefixes
from vitc.mixed.records import SensitivityRow
from vitc.passes.quantization.quantize_int8 import QuantizeInt8
from vitc.passes.quantization.ranges import Sites
from vitc.pipeline.base import Pass
from vitc.pipeline.manager import run_pipeline


@dataclass(frozen=True)
class Split:
    """A pipeline, run up to its quantize-int8.

    program:  the calibrated floating-point program there.
    quantize: that pass.
    after:    what follows.
    """

    program: Program
    quantize: QuantizeInt8
    after: tuple[Pass, ...]

    @classmethod
    def of(cls, program: Program, passes: Sequence[Pass]) -> Split:
        """Raises PipelineError if the passes quantize nothing, CalibrationError without a calibration stream."""
        at = next((i for i, p in enumerate(passes) if isinstance(p, QuantizeInt8)), None)
        if at is None:
            raise PipelineError("sensitivity and budgets need a pipeline with quantize-int8, and this one has none")
        if program.calibration is None:
            raise CalibrationError(
                "sensitivity and budgets need calibration=images, a tensor or an iterable of batches"
            )
        quantize: QuantizeInt8 = passes[at]  # type: ignore[assignment]
        before = run_pipeline(program, passes[:at])
        return cls(quantize.with_ranges(before, quantize.sites(before)), quantize, tuple(passes[at + 1 :]))

    def finish(self, quantize: QuantizeInt8 | None) -> Program:
        """The program after the rest of the pipeline; None leaves INT8 out."""
        return run_pipeline(self.program, [*([quantize] if quantize else []), *self.after])

    def saved_ms(self, key: Callable[[str], str]) -> dict[str, float] | None:
        """Predicted ms that INT8 saves, by block or layer, on a CPU from rates measured here; None where the target has
        no figures to predict from, or no CPU engine is there to be measured."""
        target = self.program.target
        try:
            known = measured_here(target)
            times = [predict(op_costs(self.finish(q)), known) for q in (None, self.quantize)]
        except (TargetError, MissingDependencyError):
            return None
        saved: dict[str, float] = {}
        for sign, prediction in zip((1, -1), times, strict=True):
            for op in prediction.ops:
                name = key(op.cost.module)
                saved[name] = saved.get(name, 0.0) + sign * op.ms
        return saved


def groups(split: Split, key: Callable[[str], str]) -> dict[str, Sites]:
    """The sites of quantize-int8 by block or layer, in the order of the graph."""
    program, found = split.program, dict[str, Sites]()
    sites = split.quantize.sites(program)
    for x, readers in sites.gemms.items():
        for node in readers:
            found.setdefault(key(module_path(node)), Sites()).gemms.setdefault(x, []).append(node)
    for node in sites.attentions:
        found.setdefault(key(module_path(node)), Sites()).attentions.append(node)
    order = {n: i for i, n in enumerate(program.graph.nodes)}
    return dict(sorted(found.items(), key=lambda item: min(order[n] for n in touched(item[1]))))


def touched(sites: Sites) -> list[Node]:
    """The nodes that quantizing the sites may change: they, and the linears that make q, k and v."""
    nodes = [n for readers in sites.gemms.values() for n in readers] + sites.attentions
    return nodes + [a for n in sites.attentions for a in n.args[:3] if isinstance(a, Node)]


class Measure:
    """Runs single groups in INT8, everything else in floating point, on the first `images` calibration images."""

    def __init__(self, split: Split, found: dict[str, Sites], images: int) -> None:
        self.split = split
        order = {n: i for i, n in enumerate(split.program.graph.nodes)}
        self._cuts = {name: min(touched(sites), key=order.__getitem__).name for name, sites in found.items()}
        self._prefixes = Prefixes(split.program, _first(split.program, images), self._cuts.values())
        self.images = sum(outputs[0].shape[0] for outputs in self._prefixes.outputs)

    def row(self, name: str, sites: Sites, quantize: QuantizeInt8 | None = None) -> SensitivityRow:
        """INT8 at one group's sites; `quantize`: with other options than the pipeline's."""
        changed = self.quantized(sites, quantize)
        return self._row(name, self._prefixes.run(changed, self._cuts[name]))

    def together(self, name: str) -> SensitivityRow:
        """INT8 everywhere."""
        sites = self.split.quantize.sites(self.split.program)
        return self._row(name, self._prefixes.run(self.quantized(sites), next(iter(self._cuts.values()))))

    def quantized(self, sites: Sites, quantize: QuantizeInt8 | None = None) -> Program:
        """A copy of the program with INT8 at some sites only."""
        return (quantize or self.split.quantize).apply(*sites.on_copy(self.split.program))

    def _row(self, name: str, got: list[list[Tensor]]) -> SensitivityRow:
        want = self._prefixes.outputs
        pairs = [(a.double(), b.double()) for x, y in zip(want, got, strict=True) for a, b in zip(x, y, strict=True)]
        signal = sum(float(a.square().sum()) for a, _ in pairs)
        noise = sum(float((a - b).square().sum()) for a, b in pairs)
        sqnr = 10 * float(torch.log10(torch.tensor(signal / noise))) if noise else float("inf")
        first, second = (torch.cat([outputs[0] for outputs in values]) for values in (want, got))
        return SensitivityRow(name, sqnr, kl_divergence(first, second), agreement(first, second), None, None)


def agreement(want: Tensor, got: Tensor) -> float | None:
    """Share of equal top classes of logits [n, classes] (or [n, classes, h, w]); None for anything else."""
    return float((want.argmax(1) == got.argmax(1)).float().mean()) if _classes(want) else None


def kl_divergence(want: Tensor, got: Tensor) -> float | None:
    """Mean KL(want ‖ got) of the class probabilities, in nats; None if the outputs are no logits."""
    if not _classes(want):
        return None
    p, q = want.double().log_softmax(1), got.double().log_softmax(1)
    return float((p.exp() * (p - q)).sum(1).mean())


def _classes(outputs: Tensor) -> bool:
    return outputs.ndim in (2, 4) and outputs.shape[1] > 1


def _first(program: Program, images: int) -> list[Any]:
    """Whole batches of the calibration stream, until there are so many images."""
    assert program.calibration is not None
    batches, count = [], 0
    for batch in islice(program.calibration, images):
        batches.append(batch)
        count += batch[0].shape[0]
        if count >= images:
            break
    return batches


def with_extras(row: SensitivityRow, saved: dict[str, float] | None, score: float | None) -> SensitivityRow:
    """The row with what is not measured on its outputs."""
    return replace(row, saved_ms=None if saved is None else saved.get(row.name, 0.0), score=score)


def by_block(module: str) -> str:
    return block_of(module)


def by_layer(module: str) -> str:
    return module or "(model)"
