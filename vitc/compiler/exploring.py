"""A compilation, told to the explorer: its passes run once more, watched.

What calibration, training and searches found is known by then, so nothing is searched or trained again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vitc.compiler.report import Report
from vitc.explorer.collect import Recorder
from vitc.explorer.document import Story
from vitc.explorer.story import of_passes
from vitc.graph.program import Program
from vitc.lowering.lint import LintReport, lint
from vitc.lowering.onnx.model import OnnxModel
from vitc.lowering.tensorrt.layers import LayerTable
from vitc.pipeline.base import Pass
from vitc.pipeline.instruments import Numerics
from vitc.pipeline.manager import run_pipeline


@dataclass(frozen=True)
class Told:
    """What a story is told from.

    original, start: what was captured, and what pruning and training made of it.
    program, onnx, report: what came out.
    passes: those of `program`, its whole pipeline.
    """

    original: Program
    start: Program
    program: Program
    onnx: OnnxModel
    report: Report
    passes: Sequence[Pass]

    def story(self, title: str, engines: dict[str, tuple[LayerTable, LintReport]] | None = None) -> Story:
        """`engines`: what was built of it, by title: its layers and the lint that predicted them."""
        program = self.program
        begin = self.start.calibrated(program.findings)
        begin = begin.evolve(calibration=program.calibration, samples=begin.samples or program.samples)
        recorder, watch = Recorder([begin]), Numerics()
        run_pipeline(begin, self.passes[len(begin.journal) :], (recorder, watch))
        programs, deviations = recorder.programs, [*watch.sequence]
        if begin.journal:  # all that pruning and training did is one step
            programs, deviations = [self.original, *programs], [0.0, *deviations]
        # The graphs are those of this run; seconds and notes are those of the compilation itself.
        programs = [p.evolve(journal=program.journal[: len(p.journal)]) for p in programs]
        return of_passes(
            programs,
            title=title,
            report=self.report.to_dict(),
            lint=lint(self.onnx.proto, program.target),
            origins=self.onnx.origins,
            engines=engines,
            deviations=deviations,
        )


def title(path: str | Path) -> str:
    """What a file is called where nobody said: by its name."""
    return Path(path).name.removesuffix(".html").removesuffix(".explore")
