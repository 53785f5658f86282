"""The same lint after the build: does the engine's layer log say what was predicted?"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from vitc.lowering.lint.report import LintReport, Verdict
from vitc.lowering.tensorrt.kinds import Kind
from vitc.lowering.tensorrt.layers import Layer, LayerTable
from vitc.printable import printable

_FLOAT_GEMMS = (Kind.FP16_GEMM, Kind.FP32_GEMM)
#: Where a layer of several of these holds a node, the first says what the node became.
_DECISIVE = (
    Kind.PLUGIN, Kind.FUSED_ATTENTION, Kind.INT8_CONVOLUTION, Kind.FP_CONVOLUTION, Kind.INT8_GEMM,
    Kind.DEQUANTIZED_GEMM,
    *_FLOAT_GEMMS,
)  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """A node whose layer is not what was predicted. `actual` None: no layer of such a kind names the node."""

    node: str
    predicted: Kind
    actual: Kind | None

    def __str__(self) -> str:
        return (
            f"{printable(self.node)}: predicted {self.predicted.value}, the engine has"
            f" {self.actual.value if self.actual else 'no such layer'}"
        )


@dataclass(frozen=True)
class Agreement:
    """What was predicted against what the layer log says.

    checked:     nodes with a prediction.
    differences: those whose layer is another.
    copies:      reformats in blocks whose attention was to be the plugin or fused.
    predicted:   how many of each kind were predicted.
    actual:      how many of each kind there are.
    """

    checked: int
    differences: tuple[Difference, ...]
    copies: tuple[Layer, ...]
    predicted: dict[str, int]
    actual: dict[str, int]
    """Nodes of each kind, as predicted and in the log."""

    @property
    def agrees(self) -> bool:
        return not self.differences and not self.copies

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "agrees": self.agrees,
            "checked": self.checked,
            "differences": [str(difference) for difference in self.differences],
            "copies": [layer.name for layer in self.copies],
            "predicted": self.predicted,
            "actual": self.actual,
        }

    def __str__(self) -> str:
        if self.agrees:
            return f"prediction and layer log agree on all {self.checked} products, convolutions and attentions"
        lines = [
            f"prediction and layer log differ on {len(self.differences)} of {self.checked} nodes, {len(self.copies)}"
            " copies:"
        ]
        lines += [f"  {difference}" for difference in self.differences]
        lines += [f"  a copy in a block without one predicted: {printable(layer.name)}" for layer in self.copies]
        return "\n".join(lines)


def compare(report: LintReport, table: LayerTable) -> Agreement:
    """Each predicted kind against the engine's layer table. Lint for the engine that built it."""
    predicted = report.kinds()
    actual = {node: _actual(node, kind, table) for node, kind in predicted.items()}
    differences = tuple(
        Difference(node, kind, actual[node]) for node, kind in predicted.items() if actual[node] is not kind
    )
    return Agreement(
        checked=len(predicted),
        differences=differences,
        copies=_copies(report, table),
        predicted=_count(predicted.values()),
        actual=_count(kind for kind in actual.values() if kind),
    )


def _actual(node: str, predicted: Kind, table: LayerTable) -> Kind | None:
    found = {layer.kind for layer in table.layers if node in layer.nodes}
    kind = next((kind for kind in _DECISIVE if kind in found), None)
    if predicted is Kind.DEQUANTIZED_GEMM and kind in _FLOAT_GEMMS:
        return predicted  # what it multiplies was dequantized in the kernel before
    return kind


def _copies(report: LintReport, table: LayerTable) -> tuple[Layer, ...]:
    clean = {block for block, verdicts in report.blocks().items() if _has_one_attention(verdicts)}
    reformats = [layer for layer in table.of(Kind.REFORMAT) if layer.modules]
    return tuple(layer for block in clean for layer in table.under(block).layers if layer in reformats)


def _has_one_attention(verdicts: tuple[Verdict, ...]) -> bool:
    return any(verdict.rule.id == "attention-plugin" for verdict in verdicts)


def _count(kinds: Any) -> dict[str, int]:
    counts = Counter(kinds)
    return {kind.value: counts[kind] for kind in Kind if counts[kind]}
