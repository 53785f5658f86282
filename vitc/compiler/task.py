"""The task of a compilation: the user's, which must fit, or the model's own config's, kept where it fits."""

from __future__ import annotations

from dataclasses import replace

from vitc.compiler.structure import flat_leaves, json_tree
from vitc.errors import InputError
from vitc.graph.nodes import is_tensor, shape_of
from vitc.graph.program import Program
from vitc.lowering.onnx.model import output_names
from vitc.task import Task, check_task


def with_task(program: Program, given: Task | None) -> Program:
    """The program with its task, and the preprocessing that a given task names.

    Raises InputError where a given task does not fit what the model returns.
    """
    if given is not None:
        _check(program, given)
        preprocessing = given.preprocessing or program.preprocessing
        return program.evolve(task=replace(given, preprocessing=None), preprocessing=preprocessing)
    if program.task is None:
        return program
    try:
        _check(program, program.task)
    except InputError:
        # A zoo's model whose head was changed: its config speaks of another.
        return program.evolve(task=None)
    return program


def _check(program: Program, task: Task) -> None:
    leaves = flat_leaves(program)
    shapes = {
        name: [size if isinstance(size, int) else str(size) for size in shape_of(leaf)]
        for name, leaf in zip(output_names(leaves), filter(is_tensor, leaves), strict=True)
    }
    check_task(task, json_tree(program), shapes)
