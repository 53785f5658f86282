"""Mixes of a plan: compiled, scored, and the fastest within a budget chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
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
from vitc.mixed.score import Evaluate, score_of
from vitc.passes.quantization.quantize_int8 import QuantizeInt8
from vitc.pipeline.base import Pass
from vitc.pipeline.text import parse_pipeline

if TYPE_CHECKING:
    from vitc.compiler.planning import Plan

#: Calibration images that the noise of each block is measured on: it only orders the blocks, the score is of all
#: images.
_IMAGES = 16


class Mixes:
    """The mixes of INT8 and floating point that a quantized plan allows. `start`: the program its passes began with;
    `build`: a plan that goes on from a program with other passes (None: without INT8), which are the whole pipeline."""

    def __init__(self, made: Plan, start: Program, build: Callable[[Program, Sequence[Pass] | None], Plan]) -> None:
        self._made, self._start, self._build = made, start, build
        self._passes = parse_pipeline(made.report.pipeline)
        self._known = start.evolve(calibration=None).calibrated(made.program.ranges, made.program.vectors)
        self._calibrated = self._known  # as it stands before quantize-int8, once `fastest` has got there
        self._compiled: tuple[QuantizeInt8 | None, CompiledModel, Plan] | None = None
        self._ledger: Ledger | None = None

    def fastest(
        self, evaluate: Evaluate | None, max_drop: float, resume: str | Path | None
    ) -> tuple[CompiledModel, Plan]:
        """The mix with the least predicted time whose score is within `max_drop` of floating point's, with the ledger
        in its report."""
        stream = self._made.program.calibration
        if stream is None:
            raise InternalError("a quantized plan has lost its calibration stream")
        split = Split.of(self._known.evolve(calibration=stream), self._passes[len(self._start.journal) :])
        self._calibrated = split.program.evolve(calibration=None)
        blocks = groups(split, by_block)
        identity = {
            "model": model_fingerprint(self._start.module),
            "target": self._start.target.name,
            "pipeline": self._made.report.pipeline,
            "calibration": ranges_fingerprint(self._made.program),
            "max_drop": repr(max_drop),
            "score": "evaluate" if evaluate else "agreement with floating point",
        }
        ask = evaluate or (lambda model: _same_answers(self._start, model, stream))
        journal = SearchJournal(resume, identity)
        found = search(
            Measure(split, blocks, _IMAGES),
            blocks,
            journal.ask(
                "ms that INT8 saves", lambda: split.saved_ms(by_block), _milliseconds
            ),  # measured on a CPU: vary
            lambda mix: score_of(ask, self._model(mix)[0]),
            max_drop,
            journal,
            score_blocks=evaluate is not None,  # without, agreement is measured from the block onwards
        )
        self._ledger = found.ledger
        model, plan = self._model(found.quantize)
        return self._with_ledger(model), plan

    def floating(self) -> CompiledModel:
        """The model without INT8, with the ledger of the search."""
        return self._with_ledger(self._model(None)[0])

    def _model(self, mix: QuantizeInt8 | None) -> tuple[CompiledModel, Plan]:
        """One engine is open at a time."""
        if self._compiled is None or self._compiled[0] != mix:
            self._compiled = None
            if mix is None:
                plan = self._build(self._known, None)
            else:
                plan = self._build(self._calibrated, [mix if isinstance(p, QuantizeInt8) else p for p in self._passes])
            self._compiled = (mix, CompiledModel.from_plan(plan), plan)
        return self._compiled[1:]

    def _with_ledger(self, model: CompiledModel) -> CompiledModel:
        if self._ledger is None:
            return model
        return model.with_report(replace(model.report(), ledger=self._ledger)).decided(self._ledger.verdict)


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
