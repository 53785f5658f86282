"""Instruments watch a pipeline from outside: verify, time, dump, diff, progress, numerics. Nothing of it is inside a
pass."""

from __future__ import annotations

import difflib
import re
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TextIO

import torch

from vitc.errors import PassError
from vitc.graph.printer import print_graph, print_weights
from vitc.graph.program import JournalEntry, Program
from vitc.graph.stages import check_stage
from vitc.pipeline.base import Pass
from vitc.pipeline.text import print_pass


class Instrument(Protocol):
    """Two calls a pass. `before` gets the program the pass will get; `after` both programs."""

    def before(self, item: Pass, program: Program) -> None: ...

    def after(self, item: Pass, before: Program, after: Program) -> None: ...


class Verify:
    """Lints the graph and checks its stage after every pass. On unless refused."""

    def before(self, item: Pass, program: Program) -> None:
        """Nothing: what enters was verified when it left the pass before."""

    def after(self, item: Pass, before: Program, after: Program) -> None:
        try:
            after.graph.lint()
        except RuntimeError as error:
            raise PassError(f"pass {item.name!r} broke the graph: {error}. Use vitc.Rewriter to change it") from error
        for node in after.graph.nodes:
            if node.op == "call_function" and "val" not in node.meta:
                raise PassError(
                    f"pass {item.name!r} made node {node.name} ({node.target}) without a type; "
                    "create nodes with vitc.Rewriter.call"
                )
        check_stage(after, item.name)


@dataclass
class Dump:
    """Writes NN-name.txt after every pass, and 00-captured.txt before the first, into `folder`: the graph, and the
    types of the weights it reads. `vitc.read_dump` reads them back.

    Only files it recognizes as its own (two digits, dash) are deleted from an earlier run.
    """

    folder: Path
    count: int = field(default=0, init=False)

    def before(self, item: Pass, program: Program) -> None:
        if self.count == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            for old in self.folder.iterdir():
                if re.fullmatch(r"\d\d-[\w.-]+\.txt", old.name):
                    old.unlink()
            self._write(program.stage, program)

    def after(self, item: Pass, before: Program, after: Program) -> None:
        self._write(item.name, after, print_pass(item))

    def _write(self, name: str, program: Program, text: str = "") -> None:
        header = f"# stage {program.stage}" + (f", after {text}" if text else "") + "\n"
        header += f"# target {program.target.name}, batch "
        header += f"{program.batch.min} to {program.batch.max}\n" if program.batch else "fixed\n"
        path = self.folder / f"{self.count:02d}-{name}.txt"
        graph = program.graph
        path.write_text(header + print_graph(graph, exact=True) + print_weights(graph), encoding="utf-8")
        self.count += 1


@dataclass(frozen=True)
class Change:
    """What one pass made of a graph.

    text:   the pass, with its options.
    before: the graph it was given, as text.
    after:  the graph it gave; equal to `before` where it changed weights only, or nothing.
    entry:  what the journal has on it: counts of nodes, notes.
    """

    text: str
    before: str
    after: str
    entry: JournalEntry

    @property
    def diff(self) -> str:
        """A unified diff of the two graphs; empty where they are equal."""
        lines = difflib.unified_diff(
            self.before.splitlines(), self.after.splitlines(), "before", "after", lineterm="", n=1
        )
        return "".join(f"{line}\n" for line in lines)


@dataclass
class Diff:
    """Keeps what every pass made of the graph, in order."""

    changes: list[Change] = field(default_factory=list)

    def before(self, item: Pass, program: Program) -> None:
        """Nothing: `after` gets both programs."""

    def after(self, item: Pass, before: Program, after: Program) -> None:
        texts = print_graph(before.graph), print_graph(after.graph)
        self.changes.append(Change(print_pass(item), *texts, after.journal[-1]))


@dataclass
class Numerics:
    """Runs the example inputs before the first and after every pass; keeps how far the outputs are from the first ones.

    limit:      a pass that exceeds it is refused.
    deviations: the largest deviation, relative to the largest output magnitude, by pass text.
    sequence:   the same, one for each pass.
    """

    limit: float | None = None
    deviations: dict[str, float] = field(default_factory=dict, init=False)
    sequence: list[float] = field(default_factory=list, init=False)
    _reference: list[torch.Tensor] = field(default_factory=list, init=False)

    def before(self, item: Pass, program: Program) -> None:
        if not self._reference:
            self._reference = self._run(program)

    def after(self, item: Pass, before: Program, after: Program) -> None:
        deviation = 0.0
        for want, got in zip(self._reference, self._run(after), strict=True):
            peak = want.abs().max().clamp_min(1e-12)
            deviation = max(deviation, float((want - got).abs().max() / peak))
        self.deviations[print_pass(item)] = deviation
        self.sequence.append(deviation)
        if self.limit is not None and not deviation <= self.limit:
            raise PassError(
                f"after pass {item.name!r} the outputs deviate by {deviation:.3g} of their largest magnitude; "
                f"the limit is {self.limit:.3g}"
            )

    def _run(self, program: Program) -> list[torch.Tensor]:
        return [t.to(torch.float32) for t in program.run(*program.example_inputs) if t.is_floating_point()]


@dataclass
class Progress:
    """Prints one line for each pass, as it ends."""

    stream: TextIO = field(default_factory=lambda: sys.stderr)
    _started: float = field(default=0.0, init=False)

    def before(self, item: Pass, program: Program) -> None:
        self._started = time.perf_counter()

    def after(self, item: Pass, before: Program, after: Program) -> None:
        nodes = sum(1 for n in after.graph.nodes if n.op == "call_function")
        seconds = time.perf_counter() - self._started
        print(f"  {item.name:<24} {seconds:6.2f} s  {nodes:5d} nodes", file=self.stream, flush=True)
