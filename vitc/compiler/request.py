"""What a user asks of `compile` and `plan`: one frozen record, checked as it is made, before anything dear begins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from vitc.calibration.preprocessing import Preprocessing
from vitc.calibration.source import check_source
from vitc.calibration.stream import replayable
from vitc.errors import CalibrationError, InputError
from vitc.graph.program import BatchRange
from vitc.mixed.score import Evaluate
from vitc.passes.pruning.prune import Prune
from vitc.pipeline.base import Pass
from vitc.pipeline.instruments import Dump, Instrument, Progress
from vitc.pipeline.text import parse_pipeline
from vitc.pruning import Budget, prune_pass
from vitc.targets import Target
from vitc.targets import load as load_target
from vitc.task import Task, is_task

#: 'auto', 'int8', None, or the text of the pass with its options.
Quantize = str | None
_INT8 = "quantize-int8"
#: With the layers that stay in floating point where nothing is measured: the patch embedding and the classifier.
_INT8_EVERYWHERE = f"{_INT8}{{convolutions=true,head=true}}"
#: What each argument that chooses passes becomes in a pipeline of one's own.
_IN_A_PIPELINE = {
    "prune": "write prune{ratio=0.35} into it",
    "distill": "prune and train first, with vitc.prune and vitc.distill",
    "attention": "write window-attention behind its tile-attention",
    "quantize": "write smooth-activations,quantize-int8{…} into it",
    "evaluate": "leave pipeline= away, for the search of a mix plans its own passes",
    "max_drop": "leave pipeline= away, for the search of a mix plans its own passes",
}


@dataclass(frozen=True)
class Request:
    """The arguments of `vitc.compile`, whose docstring says what each of them means.

    target: loaded, whatever it was given as.
    calibration: wrapped here, once, so that what can be read only once is read again and again.

    Raises InputError, CalibrationError, PipelineError or TargetError for what is not there, and for arguments that
    contradict each other: none is ever passed over in silence.
    """

    target: Target
    example_inputs: Any = None
    task: Task | None = None
    calibration: Any = None
    prune: Budget | None = None
    distill: Any = None
    attention: str = "exact"
    quantize: Quantize = "auto"
    evaluate: Evaluate | None = None
    max_drop: float | None = None
    resume: str | Path | None = None
    batch: BatchRange | None = field(default_factory=BatchRange)
    preprocessing: Preprocessing | None = None
    pipeline: str | Sequence[Pass] | None = None
    dump: str | Path | None = None
    explore: str | Path | None = None
    instruments: Sequence[Instrument] = ()
    progress: bool = False

    @classmethod
    def of(cls, target: str | Path | Target, **arguments: Any) -> Request:
        """The request for a target by name, by the path of a TOML file, or as it is."""
        device = load_target(target)
        return cls(device, **arguments)

    def __post_init__(self) -> None:
        object.__setattr__(self, "calibration", replayable(self.calibration))
        self._check_values()
        self._check_together()
        if self.passes is not None:
            self._check_pipeline()
        check_source(self.calibration)

    def _check_values(self) -> None:
        if self.task is not None and not is_task(self.task):
            raise InputError(f"task must be a vitc.Classification or a vitc.Detection, got {type(self.task).__name__}")
        if self.quantize not in ("auto", "int8", None) and not self._int8_options:
            raise InputError(
                f"quantize must be 'auto', 'int8', None or '{_INT8}{{option=value,…}}', got {self.quantize!r}"
            )
        if self.attention not in ("exact", "window") and not str(self.attention).startswith("window-attention"):
            raise InputError(f"attention must be 'exact', 'window' or the text of a pass, got {self.attention!r}")
        if self.max_drop is not None and not (0 <= self.max_drop < math.inf):
            raise InputError(f"max_drop must be a number that is not negative, got {self.max_drop}")
        if self.explore is not None and not Path(self.explore).parent.is_dir():
            raise InputError(f"there is no folder {str(Path(self.explore).parent)!r} for explore={str(self.explore)!r}")
        if self.prune is not None:
            prune_pass(self.prune)
        _ = self.lossy_attention

    def _check_together(self) -> None:
        if self.preprocessing is not None and self.task is not None and self.task.preprocessing is not None:
            raise InputError("preprocessing= is given twice, by itself and in task=; leave one of them away")
        if self.evaluate is not None and self.max_drop is None:
            raise InputError("evaluate needs max_drop: the most that its score may lose by INT8, as max_drop=0.005")
        if self.distill is not None and self.prune is None and self.pipeline is None:
            raise InputError(
                "distill= learns back what prune= takes away; pass prune= too, or train a student with vitc.distill"
            )
        if self.calibration is None:
            if self.max_drop is not None:
                raise InputError(
                    "max_drop= bounds what INT8 may cost, and without calibration=images there is no INT8; pass "
                    "calibration=, or leave max_drop away"
                )
            if self.resume is not None:
                raise InputError(
                    "resume= keeps what calibration and the search of a mix find, and there is no calibration=images"
                )
            if self.quantize not in ("auto", None) and self.pipeline is None:
                raise CalibrationError(
                    f"quantize={self.quantize!r} needs calibration=images, a tensor or an iterable of batches"
                )
        if self.quantize is None:
            if self.max_drop is not None:
                raise InputError(
                    "max_drop= bounds what INT8 may cost, and quantize=None turns INT8 off; leave one of them away"
                )
            if self.resume is not None:
                raise InputError("resume= keeps what INT8 finds, and quantize=None turns INT8 off; leave one away")
            if self.calibration is not None and self.prune is None and self.pipeline is None:
                raise InputError(
                    "calibration= is for INT8 and for pruning; with quantize=None and without prune= nothing would "
                    "read it"
                )

    def _check_pipeline(self) -> None:
        default = {"attention": "exact", "quantize": "auto"}
        for name, remedy in _IN_A_PIPELINE.items():
            if getattr(self, name) != default.get(name):
                raise InputError(
                    f"{name}= and pipeline= exclude each other, for pipeline= is the whole list of passes: {remedy}"
                )

    @cached_property
    def passes(self) -> tuple[Pass, ...] | None:
        """The user's own pipeline."""
        if self.pipeline is None:
            return None
        return parse_pipeline(self.pipeline) if isinstance(self.pipeline, str) else tuple(self.pipeline)

    @property
    def prunes(self) -> bool:
        """Whether anything is going to be cut, for which a CPU's rates are measured."""
        return self.prune is not None or any(isinstance(item, Prune) for item in self.passes or ())

    @property
    def _int8_options(self) -> bool:
        """Whether `quantize` is the text of the one pass. Raises PipelineError for options that it does not have."""
        if not isinstance(self.quantize, str) or not self.quantize.startswith(_INT8):
            return False
        return [item.name for item in parse_pipeline(self.quantize)] == [_INT8]

    @property
    def int8(self) -> str | None:
        """The text of quantize-int8, None for no INT8.

        A search measures the first and the last layer too; without one they stay in floating point.
        """
        if self.quantize is None or self.calibration is None:
            return None
        if self._int8_options:
            return self.quantize
        return _INT8 if self.max_drop is None else _INT8_EVERYWHERE

    @property
    def measures_int8(self) -> bool:
        """Whether INT8 is kept only where it is measured to be faster: on a CPU, which is at hand."""
        return self.target.kind == "cpu" and self.quantize == "auto" and self.passes is None

    @property
    def lossy_attention(self) -> Pass | None:
        """The pass that makes attention local, None for exact attention."""
        if self.attention == "exact":
            return None
        (item,) = parse_pipeline("window-attention" if self.attention == "window" else self.attention)
        return item

    @cached_property
    def watchers(self) -> tuple[Instrument, ...]:
        """The instruments of this compilation, the same objects for all its pipelines."""
        own: list[Instrument] = [*self.instruments]
        if self.dump is not None:
            own.append(Dump(Path(self.dump)))
        if self.progress:
            own.append(Progress())
        return tuple(own)
