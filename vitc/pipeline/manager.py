"""Runs passes in order, keeps the journal, and lets instruments watch."""

from __future__ import annotations

import time
from collections.abc import Sequence

from vitc.errors import InternalError, PassError, VitcError
from vitc.graph.program import JournalEntry, Program
from vitc.graph.rewriter import CHANGED_BY
from vitc.pipeline.base import Pass
from vitc.pipeline.instruments import Instrument, Verify
from vitc.pipeline.order import check_order
from vitc.pipeline.text import print_pass


def run_pipeline(
    program: Program, passes: Sequence[Pass], instruments: Sequence[Instrument] = (), *, verify: bool = True
) -> Program:
    """The program after all passes.

    Raises PipelineError before anything runs if the order is wrong; PassError, naming the pass, if one fails.
    The given program is not changed.
    """
    check_order(passes, program.stage)
    watchers: tuple[Instrument, ...] = (*((Verify(),) if verify else ()), *instruments)
    for item in passes:
        for watcher in watchers:
            watcher.before(item, program)
        after = _run(item, program)
        for watcher in watchers:
            watcher.after(item, program, after)
        program = after
    return program


def _run(item: Pass, program: Program) -> Program:
    started = time.perf_counter()
    fork = program.fork().evolve(notes=())
    for node in fork.graph.nodes:
        node.meta.pop(CHANGED_BY, None)  # an earlier pass's
    before = {n.name for n in fork.graph.nodes if n.op == "call_function"}
    try:
        after = item.run(fork)
    except (VitcError, InternalError):
        raise
    except Exception as error:
        raise PassError(f"pass {item.name!r} failed with {type(error).__name__}: {error}") from error
    if not isinstance(after, Program):
        raise PassError(
            f"pass {item.name!r} returned {type(after).__name__}, not a Program; end run() with `return program`"
        )
    now = {n.name: n for n in after.graph.nodes if n.op == "call_function"}
    entry = JournalEntry(
        pass_text=print_pass(item),
        stage=item.gives or program.stage,
        created=len(now.keys() - before),
        erased=len(before - now.keys()),
        changed=sum(CHANGED_BY in now[name].meta for name in now.keys() & before),
        seconds=time.perf_counter() - started,
        notes=after.notes,
    )
    return after.evolve(stage=entry.stage, journal=(*program.journal, entry), notes=())
