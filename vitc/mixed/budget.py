"""The fastest mix of INT8 and floating point that keeps a score.

One block at a time in INT8 says how much noise each adds; noise of different blocks adds up. So the blocks are given
back to floating point in the order of noise per millisecond, worst bargain first, and bisection (as in Polygraphy's
BisectMarker) finds the fewest that must go: log₂ of the blocks evaluations, each of the real compiled mix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from vitc.mixed.journal import SearchJournal
from vitc.mixed.measure import Measure
from vitc.mixed.records import Ledger, LedgerEntry, SensitivityRow
from vitc.passes.quantization.quantize_int8 import QuantizeInt8
from vitc.passes.quantization.ranges import Sites

#: P·V runs at FP16's rate then: half of the attention's operations take twice as long. Without figures of a target the
#: bargain is this share of the block's saving.
_PV_SHARE = 0.1


@dataclass(frozen=True)
class Step:
    """One block made more exact: its attention's P·V in FP16, or all of it in floating point."""

    block: str
    whole: bool
    noise: float  # that goes away
    cost: float  # ms, or operations, that are lost

    @property
    def text(self) -> str:
        return f"{self.block} in floating point" if self.whole else f"{self.block} with P·V in FP16"


@dataclass(frozen=True)
class Found:
    """The pass that makes the mix (None: all floating point) and how it was found."""

    quantize: QuantizeInt8 | None
    ledger: Ledger


def search(
    measure: Measure,
    blocks: dict[str, Sites],
    saved: dict[str, float] | None,
    score: Callable[[QuantizeInt8 | None], float],
    max_drop: float,
    journal: SearchJournal,
    score_blocks: bool = False,
) -> Found:
    """`score`: of the compiled model that a pass makes, None for floating point; higher is better. `score_blocks`: if
    INT8 everywhere does not keep the score, ask for that of each block alone too, for the ledger."""
    quantize, trials = measure.split.quantize, []

    def asked(mix: QuantizeInt8 | None, label: str) -> float:
        return journal.ask(f"score of {label}", lambda: score(mix), float)

    def tried(mix: QuantizeInt8 | None, label: str) -> float:
        trials.append((label, asked(mix, label)))
        return trials[-1][1]

    floating = tried(None, "floating point")
    floor = floating - max_drop
    whole = tried(quantize, "INT8 everywhere") >= floor
    rows = {name: _row(measure, journal, name, sites) for name, sites in blocks.items()}
    changes = {}
    if score_blocks and not whole:
        for name in blocks:
            others = [Step(other, True, 0, 0) for other in blocks if other != name]
            changes[name] = asked(_without(quantize, others), f"INT8 in {name} alone") - floating
    ledger = partial(_ledger, rows, saved, changes, trials, max_drop)
    useless = [name for name in blocks if saved is not None and saved.get(name, 0.0) <= 0.0]
    if len(useless) == len(blocks):
        return Found(None, ledger(useless, [], "INT8 does not pay here: no block gets faster"))
    gains = dict.fromkeys(blocks, 1.0) if saved is None else {name: saved.get(name, 0.0) for name in blocks}
    held = [_Mix(quantize, [], [], sum(gains.values()))] if whole else []
    if not whole or useless:
        base = _without(quantize, [Step(name, True, 0, 0) for name in useless])
        steps = _steps(measure, journal, {n: s for n, s in blocks.items() if n not in useless}, rows, saved)
        most = sum(gains[name] for name in blocks if name not in useless)
        low, high = 0, len(steps)  # so many steps may be enough, with so many nothing is left in INT8
        while low < high:
            count = (low + high) // 2
            mix = _without(base, steps[:count])
            if tried(mix, _label(steps[:count], useless)) >= floor:
                held.append(_Mix(mix, useless, steps[:count], most - sum(s.cost for s in steps[:count])))
                high = count
            else:
                low = count + 1
    if not held:
        left_out = f"INT8 is left out: no mix that was tried keeps the score within {max_drop:g}"
        return Found(None, ledger(useless, steps, left_out))
    # A score need not fall with each block: one image more or less decides. So what held is compared, not what should.
    best = max(held, key=lambda m: m.gain)
    gone = {*best.useless, *(s.block for s in best.taken if s.whole)}
    verdict = (
        f"INT8 in {len(blocks) - len(gone)} of {len(blocks)} blocks, within {max_drop:g} of the score in floating point"
    )
    if not best.useless and not best.taken:
        verdict = "INT8 everywhere keeps the score"
    return Found(best.quantize, ledger(best.useless, best.taken, verdict))


@dataclass(frozen=True)
class _Mix:
    """A mix that keeps the score.

    useless: blocks in floating point because INT8 is not faster there.
    taken: the steps that make other blocks more exact.
    gain: ms, or blocks, that INT8 saves in it.
    """

    quantize: QuantizeInt8
    useless: Sequence[str]
    taken: Sequence[Step]
    gain: float


def _row(measure: Measure, journal: SearchJournal, name: str, sites: Sites, pv: bool = False) -> SensitivityRow:
    quantize = replace(measure.split.quantize, pv_fp16=("*",)) if pv else None
    question = f"noise of {name}{' with P·V in FP16' if pv else ''}"
    return journal.ask(question, lambda: vars(measure.row(name, sites, quantize)), lambda row: SensitivityRow(**row))


def _steps(
    measure: Measure,
    journal: SearchJournal,
    blocks: dict[str, Sites],
    rows: dict[str, SensitivityRow],
    saved: dict[str, float] | None,
) -> list[Step]:
    """Every way to make a block more exact, worst bargain first. P·V in FP16 is offered where it is the better bargain
    of the two for its block; the rest of the block follows later."""
    steps = []
    for name, sites in blocks.items():
        noise, cost = _noise(rows[name]), 1.0 if saved is None else saved[name]
        whole = Step(name, True, noise, cost)
        if sites.attentions:
            half = Step(name, False, noise - _noise(_row(measure, journal, name, sites, pv=True)), _PV_SHARE * cost)
            if half.noise / half.cost > whole.noise / whole.cost:
                whole = Step(name, True, noise - half.noise, cost - half.cost)
                steps.append(half)
        steps.append(whole)
    return sorted(steps, key=lambda s: -s.noise / s.cost)


def _noise(row: SensitivityRow) -> float:
    return float(10 ** (-row.sqnr_db / 10))


def _without(quantize: QuantizeInt8, steps: Sequence[Step]) -> QuantizeInt8:
    whole = [s.block for s in steps if s.whole]
    half = [s.block for s in steps if not s.whole and s.block not in whole]
    return replace(quantize, skip=(*quantize.skip, *whole), pv_fp16=(*quantize.pv_fp16, *half))


def _label(steps: Sequence[Step], useless: Sequence[str]) -> str:
    parts = [*(f"{name} in floating point" for name in useless), *(s.text for s in steps)]
    return ", ".join(parts) or "INT8 everywhere"


def _ledger(
    rows: dict[str, SensitivityRow],
    saved: dict[str, float] | None,
    changes: dict[str, float],
    trials: Sequence[tuple[str, float]],
    max_drop: float,
    useless: Sequence[str],
    taken: Sequence[Step],
    verdict: str,
) -> Ledger:
    entries = []
    for name, row in rows.items():
        steps = [s for s in taken if s.block == name]
        if name in useless:
            choice, reason = "floating point", "INT8 is not faster here"
        elif any(s.whole for s in steps):
            choice, reason = "floating point", f"left out to keep the score within {max_drop:g}"
        elif steps:
            choice, reason = "INT8, P·V FP16", "its attention's P·V is exact for little time"
        else:
            choice, reason = "INT8", "taken: the score holds with it"
        ms = None if saved is None else saved.get(name, 0.0)
        entries.append(LedgerEntry(name, choice, row.sqnr_db, row.agreement, changes.get(name), ms, reason))
    return Ledger(tuple(entries), tuple(trials), verdict)
