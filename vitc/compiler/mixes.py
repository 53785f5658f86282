"""Mixes of a plan: compiled, scored, and the fastest within a budget chosen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from vitc.compiler.compiled import CompiledModel
from vitc.errors import InternalError
from vitc.graph.fingerprint import model_fingerprint
from vitc.graph.program import Program
from vitc.graph.structure import tensors_of
from vitc.mixed.budget import search
from vitc.mixed.journal import SearchJournal, ranges_fingerprint
from vitc.mixed.measure import Measure, Split, agreement, by_block, groups
from vitc.mixed.records import Ledger
from vitc.mixed.score import score_of
from vitc.passes.quantization.quantize_int8 import QuantizeInt8
from vitc.pipeline.text import parse_pipeline

if TYPE_CHECKING:
    from vitc.compiler.planning import Plan

#: Calibration images that the noise of each block is measured on: it only orders the blocks, the score is of all
#: images.
_IMAGES = 16


class Mixes:
    """The mixes of INT8 and floating point that a quantized plan allows."""

    def __init__(self, made: Plan) -> None:
        start = made.start
        self._made, self._start = made, start
        self._passes = parse_pipeline(made.program.pipeline)
        self._known = start.evolve(calibration=None).calibrated(made.program.findings)
        self._calibrated = self._known  # as it stands before quantize-int8, once `fastest` has got there
        self._compiled: tuple[QuantizeInt8 | None, CompiledModel] | None = None
        self._ledger: Ledger | None = None

    def fastest(self) -> CompiledModel:
        """The mix with the least predicted time whose score is within the request's `max_drop` of floating point's,
        with the ledger in its report."""
        request, stream = self._made.request, self._made.program.calibration
        if stream is None or request.max_drop is None:
            raise InternalError("the search of a mix needs a calibration stream and max_drop")
        split = Split.of(self._known.evolve(calibration=stream), self._passes[len(self._start.journal) :])
        self._calibrated = split.program.evolve(calibration=None)
        blocks = groups(split, by_block)
        identity = {
            "model": model_fingerprint(self._start.module),
            "target": self._start.target.name,
            "pipeline": self._made.program.pipeline,
            "calibration": ranges_fingerprint(self._made.program),
            "max_drop": repr(request.max_drop),
            "score": "evaluate" if request.evaluate else "agreement with floating point",
        }
        ask = request.evaluate or (lambda model: _same_answers(self._start, model, stream))
        journal = SearchJournal(request.resume, identity)
        found = search(
            Measure(split, blocks, _IMAGES),
            blocks,
            # A CPU's are measured, and vary.
            journal.ask("ms that INT8 saves", lambda: split.saved_ms(by_block), _milliseconds),
            lambda mix: score_of(ask, self._model(mix)),
            request.max_drop,
            journal,
            score_blocks=request.evaluate is not None,  # without, agreement is measured from the block onwards
        )
        self._ledger = found.ledger
        images = sum(batch[0].shape[0] for batch in stream) if request.evaluate is None else None
        if images is not None and 0 < request.max_drop < 1 / images:
            verdict = f"{found.ledger.verdict} (of {images} calibration images not one may be answered differently)"
            self._ledger = replace(found.ledger, verdict=verdict)
        return self._with_ledger(self._model(found.quantize))

    def floating(self) -> CompiledModel:
        """The model without INT8, with the ledger of the search."""
        return self._with_ledger(self._model(None))

    def _model(self, mix: QuantizeInt8 | None) -> CompiledModel:
        """One engine is open at a time."""
        if self._compiled is None or self._compiled[0] != mix:
            self._compiled = None
            if mix is None:
                plan = self._made.without_int8(self._known)
            else:
                passes = [mix if isinstance(p, QuantizeInt8) else p for p in self._passes]
                plan = self._made.with_passes(passes, self._calibrated)
            self._compiled = (mix, CompiledModel.from_plan(plan))
        return self._compiled[1]

    def _with_ledger(self, model: CompiledModel) -> CompiledModel:
        if self._ledger is None:
            return model
        return model.with_report(replace(model.report, ledger=self._ledger)).decided(self._ledger.verdict)


def _same_answers(program: Program, model: Callable[..., Any], stream: Any) -> float:
    """The share of calibration images that get the class they get in floating point; of outputs that are no classes,
    1 − ‖y − ŷ‖² / ‖y‖²."""
    wanted, got = [], []
    with torch.no_grad():
        for batch in stream:
            wanted.append(program.run(*batch)[0])
            got.append(next(tensors_of(model(*batch))))
    want, have = torch.cat(wanted), torch.cat(got)
    same = agreement(want, have)
    return same if same is not None else 1 - float((want - have).square().sum() / want.square().sum())


def _milliseconds(answer: Any) -> dict[str, float] | None:
    """By block; None where nothing predicts or measures them."""
    return None if answer is None else {str(block): float(ms) for block, ms in answer.items()}
