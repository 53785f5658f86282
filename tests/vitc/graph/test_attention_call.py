"""AttentionCall: the one place that knows which argument of an attention stands where."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

import pytest
import torch

import vitc
from vitc.errors import InternalError
from vitc.graph.attention_call import OPERANDS, AttentionCall, is_attention
from vitc.graph.rewriter import Rewriter
from vitc.kernels.fields import attention_spec, split_scales

ROOT = Path(vitc.__file__).parents[1]
DERIVED = {"has_bias", "q_scale", "k_scale", "v_scale", "head_scales"}


def graph_of(q: torch.Tensor) -> tuple[torch.fx.GraphModule, torch.fx.Node]:
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    x.meta["val"] = q
    graph.output(x)
    return torch.fx.GraphModule(torch.nn.Module(), graph), x


CALL = AttentionCall("x", None, None, None, 3, 16, 0.25, "packed", 64, 32)
INT8 = dataclasses.replace(CALL, pv="int8", in_scales=(0.5, 0.25, 1.0), out_scale=0.125, out_dtype=torch.float32)


@pytest.mark.parametrize(("call", "dtype"), [(CALL, torch.float32), (INT8, torch.int8)])
def test_what_is_emitted_is_read_again(call: AttentionCall, dtype: torch.dtype) -> None:
    module, x = graph_of(torch.zeros(2, 5, 144, dtype=dtype))
    rewriter = Rewriter(module, "test")
    with rewriter.at(next(n for n in module.graph.nodes if n.op == "output")):
        node = call.with_parts([x]).emit(rewriter)
    assert is_attention(node)
    assert AttentionCall.of(node).int8 == call.int8
    assert AttentionCall.of(node).with_operands(["x", None, None, None]) == dataclasses.replace(
        call, in_scales=AttentionCall.of(node).in_scales
    )
    assert list(AttentionCall.of(node).in_scales) == list(call.in_scales)
    assert tuple(node.meta["val"].shape) == (2, 5, call.width)


@pytest.mark.parametrize("call", [CALL, INT8])
def test_each_field_of_the_kernel_s_description_comes_from_an_argument(call: AttentionCall) -> None:
    """A field of the description that no argument gives would be one that nobody can ask for."""
    arguments = {f.name for f in dataclasses.fields(AttentionCall)}
    described = [spec.name for spec in attention_spec().fields]
    assert set(described) - arguments == DERIVED
    fields = call.fields()
    for name in set(described) - DERIVED:
        assert getattr(fields, name) == getattr(call, name), name
    common, head_scales = split_scales(call.in_scales)
    assert (fields.q_scale, fields.k_scale, fields.v_scale) == common
    assert (fields.head_scales, fields.has_bias) == (head_scales, 0)


@pytest.mark.parametrize("name", ["attention", "attention_int8"])
def test_the_operators_take_the_record_s_arguments_in_its_order(name: str) -> None:
    schema = getattr(torch.ops.vitc, name).default._schema
    names = [argument.name for argument in schema.arguments]
    fields = [f.name for f in dataclasses.fields(AttentionCall)]
    assert names == [f for f in fields if f in names]
    tensors = tuple(a.name for a in schema.arguments if "Tensor" in str(a.type))
    assert tensors == OPERANDS


def test_bias_is_the_last_input() -> None:
    call = AttentionCall("q", "k", "v", "bias", 2, 8, 0.3, "bnhd", 16, 16)
    assert call.inputs == ("q", "k", "v", "bias")
    assert call.fields().has_bias == 1
    assert (call.parts, call.packed) == (("q", "k", "v"), False)


def test_a_node_that_is_no_attention_is_refused() -> None:
    _, x = graph_of(torch.zeros(1))
    with pytest.raises(InternalError, match=r"node x .* is no attention; ask is_attention first"):
        AttentionCall.of(x)


def test_no_module_reads_an_argument_by_a_place_that_only_an_attention_has() -> None:
    """No other operator that vitc reads has more than ten arguments, or names for seven of them at once."""
    found = []
    for folder in ("vitc", "passes", "lowering"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if _unpacks_arguments(node) or _subscripts_arguments(node):
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not found, f"read these by name, through AttentionCall: {', '.join(found)}"


def _is_args(node: ast.AST) -> bool:
    if isinstance(node, ast.Subscript):
        return _is_args(node.value)
    return isinstance(node, ast.Attribute) and node.attr == "args"


def _unpacks_arguments(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Assign)
        and _is_args(node.value)
        and isinstance(node.targets[0], ast.Tuple)
        and len(node.targets[0].elts) >= 7
    )


def _subscripts_arguments(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Subscript)
        and _is_args(node.value)
        and isinstance(node.slice, ast.Constant)
        and isinstance(node.slice.value, int)
        and node.slice.value >= 8
    )
