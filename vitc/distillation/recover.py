"""Distillation as a step of a compilation: what pruning took away is learned back from the model that was given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vitc.distillation.api import distill
from vitc.errors import InputError, unknown
from vitc.graph.program import Program

_OPTIONS = ("data", "stages", "config", "optimizer", "evaluate", "checkpoint")


def recover(student: Program, teacher: Program, wanted: Any, progress: bool) -> Program:
    """The pruned program, trained. `wanted`: data as for vitc.distill, or a dict of it and of that function's options.

    Raises InputError and DistillError as vitc.distill does.
    """
    options = dict(wanted) if isinstance(wanted, Mapping) else {"data": wanted}
    for key in options:
        if key not in _OPTIONS:
            raise InputError(unknown("option of distill", str(key), _OPTIONS))
    if "data" not in options:
        raise InputError(
            f"distill has no data, only {', '.join(map(repr, options))}; add 'data': (inputs, labels) or a loader"
        )
    student = student.owned()
    result = distill(student.module, teacher.module, options.pop("data"), progress=progress, **options)
    last = student.journal[-1]
    journal = (*student.journal[:-1], replace(last, notes=(*last.notes, f"distilled: {result}")))
    return student.evolve(journal=journal)
