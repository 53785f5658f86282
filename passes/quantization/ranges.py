"""The range of every tensor that becomes INT8, from one run of the calibration stream.

`auto` asks all calibrators and takes, per tensor, the range that makes the least error at the model's outputs.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import torch
from torch.fx import Node

from vitc.calibration.findings import Findings
from vitc.calibration.observer import Observer
from vitc.graph.attention_call import AttentionCall
from vitc.graph.program import Program
from vitc.passes.quantization.calibrators import CALIBRATORS
from vitc.passes.quantization.error.importance import ProbeImages
from vitc.passes.quantization.error.measured_error import Part, TensorProbe, probe
from vitc.passes.quantization.observe.histogram import MagnitudeHistogram
from vitc.passes.quantization.observe.observe import observe
from vitc.passes.quantization.observe.peaks import peak_observers, peaks_of
from vitc.passes.quantization.observe.statistics import ChannelStatistics

#: Room above the largest magnitude seen, for images not seen: also tried by auto.
HEADROOM = (1.1, 1.25, 1.5)
#: Where no error can be measured (a convolution's input).
_WITHOUT_MEASUREMENT = "mse"


@dataclass
class Sites:
    """What is to be quantized: GEMM inputs with the GEMMs they feed, and attentions."""

    gemms: dict[Node, list[Node]] = field(default_factory=dict)
    attentions: list[Node] = field(default_factory=list)

    def tensors(self) -> dict[str, Part]:
        """Each tensor that gets a range, by the range's name."""
        found = {x.name: Part(x) for x in self.gemms}
        for node in self.attentions:
            found |= parts_of(node)
        return found

    def convolved(self) -> set[str]:
        """The tensors that a convolution reads."""
        convolution = torch.ops.aten.conv2d.default
        return {x.name for x, readers in self.gemms.items() if any(n.target is convolution for n in readers)}

    def linears(self) -> dict[Node, list[Node]]:
        """The tensors that only linears read."""
        linear = torch.ops.aten.linear.default
        return {x: readers for x, readers in self.gemms.items() if all(n.target is linear for n in readers)}

    def on_copy(self, program: Program) -> tuple[Program, Sites]:
        """A fork of the program they belong to, and the same sites there."""
        fork = program.fork()
        twin = {n.name: n for n in fork.graph.nodes}
        gemms = {twin[x.name]: [twin[n.name] for n in readers] for x, readers in self.gemms.items()}
        return fork, Sites(gemms, [twin[n.name] for n in self.attentions])


def parts_of(attention: Node) -> dict[str, Part]:
    """q, k and v, by the names of their ranges."""
    call = AttentionCall.of(attention)
    if call.packed:
        return {f"{call.q.name}/{name}": Part(call.q, i) for i, name in enumerate("qkv")}
    return {x.name: Part(x) for x in call.parts}


def choose_ranges(program: Program, sites: Sites, calibrator: str, seed: int) -> tuple[Findings, str]:
    """(ranges, peaks, and the mean of each linear's input; a line for the journal)."""
    tensors = sites.tensors()
    histograms = {name: MagnitudeHistogram() for name in tensors}
    channels = {name: ChannelStatistics() for name in tensors}
    images = ProbeImages(program, seed)
    watching: list[tuple[Node, Observer]] = list(images.observers())
    for name, part in tensors.items():
        watching += part.watched(histograms[name], channels[name])
    peaks = peak_observers(program)  # what stays in floating point may be FP16: to-fp16 asks
    observe(program, [*watching, *peaks])

    measurable = {name: part for name, part in tensors.items() if name not in sites.convolved()}
    probes, _ = probe(images, measurable, channels)
    ranges, chosen = {}, Counter[str]()
    for name, histogram in histograms.items():
        ranges[name], method = _choose(histogram, probes.get(name), calibrator)
        chosen[method] += 1
    means = {x.name: probes[x.name].mean for x in sites.linears()}
    methods = ", ".join(f"{n} by {name}" for name, n in sorted(chosen.items()))
    findings = Findings(ranges=ranges, peaks=peaks_of(peaks), means=means)
    return findings, f"ranges from {images.seen} images: {methods}"


def _choose(histogram: MagnitudeHistogram, tensor: TensorProbe | None, calibrator: str) -> tuple[float, str]:
    if calibrator != "auto":
        return CALIBRATORS[calibrator](histogram), calibrator
    if tensor is None:
        return CALIBRATORS[_WITHOUT_MEASUREMENT](histogram), _WITHOUT_MEASUREMENT
    candidates = {name: choose(histogram) for name, choose in CALIBRATORS.items()}
    candidates |= {f"minmax ×{room:g}": room * histogram.peak for room in HEADROOM}
    best = min(candidates, key=lambda name: tensor.error(candidates[name], histogram))
    return candidates[best], best


def known(program: Program, sites: Sites, with_means: bool) -> bool:
    """Whether an earlier calibration answered all questions."""
    found = program.findings
    means = [x.name for x in sites.linears()] if with_means else []
    return all(n in found.ranges for n in sites.tensors()) and all(n in found.means for n in means)
