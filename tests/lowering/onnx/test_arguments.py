"""Every argument of every operator with an ONNX form is read or refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.fx import Graph, Node

from vitc.lowering.onnx import emitter, model  # noqa: F401  the latter registers all handlers
from vitc.lowering.onnx.arguments import NO_VALUE, Refused

OVERLOADS = sorted((t for t in emitter._handlers if isinstance(t, torch._ops.OpOverload)), key=str)
#: Settled arguments whose meaning the result's dtype, shape or number of parts tells, or that only gradients feel.
TOLD_BY_THE_RESULT = {
    "dtype", "self", "half_to_float", "other", "copy", "start_dim", "end_dim", "split_size", "split_sizes", "implicit",
}  # fmt: skip
NO_EFFECT_ON_VALUES = {
    "cudnn_enable", "cudnn_enabled", "padding_idx", "scale_grad_by_freq", "sparse", "sparse_grad", "path", "sorted",
    "requires_grad",
}  # fmt: skip

#: Attention, which AttentionCall and SdpaCall read.
READ_BY_A_RECORD = {
    torch.ops.vitc.attention.default, torch.ops.vitc.attention_int8.default,
    torch.ops.aten.scaled_dot_product_attention.default,
}  # fmt: skip


def test_there_are_handlers_to_walk() -> None:
    assert len(OVERLOADS) > 200


@pytest.mark.parametrize("overload", OVERLOADS, ids=str)
def test_every_argument_is_read_or_refused(overload: Any) -> None:
    handler = emitter._handlers[overload]
    if handler.whole:
        assert overload in READ_BY_A_RECORD
        return
    for argument in overload._schema.arguments:
        name = "x" if argument.name in ("self", "input", "a") else argument.name
        if name in handler.reads or argument.name in NO_VALUE:
            continue
        if argument.name in handler.settled:
            assert argument.name in TOLD_BY_THE_RESULT | NO_EFFECT_ON_VALUES
            continue
        assert argument.has_default_value(), f"{overload} takes {argument.name}, which its handler does not read"
        with pytest.raises(Refused, match=f"has {argument.name}="):
            handler.arguments(_call(overload, argument.name))


def _call(overload: Any, changed: str) -> Node:
    """A call with all arguments at their defaults but one."""
    graph = Graph()
    operand = graph.placeholder("operand")
    args, kwargs = [], {}
    for argument in overload._schema.arguments:
        value = argument.default_value if argument.has_default_value() else operand
        value = "changed" if argument.name == changed else value
        if argument.kwarg_only:
            kwargs[argument.name] = value
        else:
            args.append(value)
    return graph.call_function(overload, tuple(args), kwargs)


def test_handlers_read_nothing_that_no_schema_has() -> None:
    known: dict[Any, set[str]] = {}
    for overload in OVERLOADS:
        names = {"x" if a.name in ("self", "input", "a") else a.name for a in overload._schema.arguments}
        known.setdefault(emitter._handlers[overload].function, set()).update(names)
    for overload in OVERLOADS:
        handler = emitter._handlers[overload]
        assert handler.reads <= known[handler.function], overload
