"""What nodes may be coloured by: the metrics a file declares, so that a viewer need not know them.

`fold` says what a folded module shows of its nodes: the sum, the mean weighted by another metric, the worst, or the
mix of words.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Metric:
    """`words`, of a metric of words: those it knows, in the order of the legend; the last is the worst."""

    id: str
    title: str
    unit: str
    kind: Literal["number", "words"]
    fold: Literal["sum", "mean", "worst", "mix"]
    about: str
    weight: str = ""
    words: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"words": list(self.words)}


METRICS = (
    Metric("ms", "predicted time", "ms", "number", "sum", "the cost model's time at batch 1; not measured"),
    Metric("flops", "operations", "FLOP", "number", "sum", "a multiply-add counts as two, batch 1"),
    Metric("bytes", "bytes moved", "B", "number", "sum", "activations read and written, and weights read, batch 1"),
    Metric("weights", "weight bytes", "B", "number", "sum", "weights read"),
    Metric(
        "precision", "precision", "", "words", "mix", "of the arithmetic", "flops",
        ("fp32", "fp16", "int8+fp16", "int8"),
    ),
    Metric("int8", "share of INT8", "", "number", "mean", "operations done in INT8", "flops"),
    Metric(
        "bound", "bound by", "", "words", "mix", "what decides the predicted time", "ms",
        ("fused", "launch", "memory", "compute"),
    ),
    Metric(
        "noise", "INT8 noise", "dB", "number", "worst",
        "signal over noise of the quantized tensor on calibration data; lower is worse",
    ),
    Metric("clipped", "clipped", "", "number", "worst", "share of the tensor's values beyond its INT8 range"),
    Metric("pruned", "pruned", "", "number", "mean", "share of the weights that pruning took away", "weights"),
    Metric("lint", "lint", "", "words", "worst", "what the lint says of the engine's layer", "",
           ("good", "note", "warning", "error")),
    Metric("built", "engine layer", "", "words", "mix", "predicted against built: does the engine's log agree?", "ms",
           ("as predicted", "not predicted", "differs")),
    Metric("change", "changed by this pass", "", "words", "mix", "added, removed, rewired", "",
           ("same", "changed", "added", "removed")),
)  # fmt: skip
