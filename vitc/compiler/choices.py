"""What a user says of the passes, checked as it is said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vitc.errors import InputError
from vitc.passes.pruning.prune import Prune
from vitc.pipeline.base import Pass
from vitc.pipeline.text import parse_pipeline

#: 'auto', 'int8', None, or the text of the pass with its options.
Quantize = str | None
_INT8 = "quantize-int8"
#: With the layers that stay in floating point where nothing is measured: the patch embedding and the classifier.
INT8_EVERYWHERE = f"{_INT8}{{convolutions=true,head=true}}"


@dataclass(frozen=True)
class Choices:
    """What the user says of the passes, as `vitc.compile` takes it. Raises InputError for what it does not take."""

    attention: str = "exact"
    quantize: Quantize = "auto"
    pipeline: str | Sequence[Pass] | None = None

    def __post_init__(self) -> None:
        if self.quantize not in ("auto", "int8", None) and not self.int8_options:
            raise InputError(
                f"quantize must be 'auto', 'int8', None or '{_INT8}{{option=value,…}}', got {self.quantize!r}"
            )
        if self.attention not in ("exact", "window") and not str(self.attention).startswith("window-attention"):
            raise InputError(f"attention must be 'exact', 'window' or the text of a pass, got {self.attention!r}")

    @property
    def passes(self) -> tuple[Pass, ...] | None:
        """The user's own pipeline."""
        if self.pipeline is None:
            return None
        return parse_pipeline(self.pipeline) if isinstance(self.pipeline, str) else tuple(self.pipeline)

    @property
    def prunes(self) -> bool:
        """Whether the user's own pipeline prunes."""
        return any(isinstance(item, Prune) for item in self.passes or ())

    @property
    def int8_options(self) -> bool:
        """Whether `quantize` is the text of the one pass. Raises PipelineError for options that it has not."""
        if not isinstance(self.quantize, str) or not self.quantize.startswith(_INT8):
            return False
        return [item.name for item in parse_pipeline(self.quantize)] == [_INT8]

    @property
    def int8(self) -> str | None:
        """The text of quantize-int8, None for no INT8."""
        if self.quantize is None:
            return None
        return self.quantize if self.int8_options else _INT8

    @property
    def lossy_attention(self) -> Pass | None:
        if self.attention == "exact":
            return None
        (item,) = parse_pipeline("window-attention" if self.attention == "window" else self.attention)
        return item
