"""The report's section on attention: the variant, why, and the predictions beside it."""

from __future__ import annotations

import dataclasses

import pytest

from vitc import targets
from vitc.compiler.attention_choice import attention_choices, lines
from vitc.cost import OpCost
from vitc.errors import InternalError
from vitc.kernels.fields import AttentionFields
from vitc.lowering.substitution import Match

TOKENS = 577
FIELDS = AttentionFields("packed", 12, 64, 0.125, 0, 64, 64, "int8", 0.02, 0.02, 0.02, 0.005)
ORIN = targets.load("orin")


def cost(name: str, dtype: str = "int8") -> OpCost:
    work, size = 4 * 12 * TOKENS**2 * 64, 12 * TOKENS * 64
    return OpCost(name, name, "attention", dtype, work, 3 * size, size, shape=(12, TOKENS, TOKENS, 64))  # type: ignore[arg-type]


def test_layers_that_are_alike_share_their_lines() -> None:
    matches = [Match(f"blocks.{i}.attn", FIELDS) for i in range(3)]
    choices = attention_choices(matches, [cost(m.node) for m in matches], ORIN)
    assert [choice.node for choice in choices] == ["blocks.0.attn", "blocks.1.attn", "blocks.2.attn"]
    head, kernel, predicted = lines(choices)
    assert head == "3 × int8 packed, 12 heads of 64, 577 tokens: blocks.0.attn … blocks.2.attn"
    assert kernel == (
        "    plugin, kernel d64_int8_pv-int8_int8_64x64x4: the default: 120 blocks for 16 multiprocessors"
    )
    assert predicted.startswith("    predicted, not measured: vitc ")
    assert "TensorRT INT8 fused: none is chosen on Orin (NVIDIA/TensorRT#4167); TensorRT FP16 fused " in predicted


def test_a_tile_that_was_asked_for() -> None:
    (choice,) = attention_choices([Match("a", dataclasses.replace(FIELDS, tile_q=32))], [cost("a")], ORIN)
    assert choice.kernel == "d64_int8_pv-int8_int8_32x64x2"
    assert "tile 32×64 was asked for" in choice.why


def test_what_no_plugin_serves() -> None:
    refused = Match("a", FIELDS, "head size 48 is none of 32, 64")
    (choice,) = attention_choices([refused], [cost("a")], ORIN)
    assert lines([choice])[1:] == ["    no match because head size 48 is none of 32, 64"]
    (choice,) = attention_choices([Match("a", FIELDS)], [cost("a")], targets.load("cpu"))
    assert (choice.kernel, choice.why) == (None, "the CPU engine runs it in standard operators")
    xavier = dataclasses.replace(ORIN, compute_capability="7.2")
    (choice,) = attention_choices([Match("a", FIELDS)], [cost("a")], xavier)
    assert choice.kernel is None
    assert "unknown CUDA architecture 'sm_72'" in choice.why


def test_a_graph_and_a_model_that_differ() -> None:
    with pytest.raises(InternalError, match="the graph has 1 attentions and the ONNX model 2"):
        attention_choices([Match("a", FIELDS), Match("b", FIELDS)], [cost("a")], ORIN)
