"""What a target's own TensorRT could do with an attention."""

from __future__ import annotations

import dataclasses

import pytest

from vitc import targets
from vitc.cost import OpCost, attention_options, predict


def cost(head_dim: int = 64, tokens: int = 197, dtype: str = "int8") -> OpCost:
    element = 1 if dtype.startswith("int8") else 2
    work, size = 4 * 12 * tokens**2 * head_dim, element * 12 * tokens * head_dim
    return OpCost("a", "a", "attention", dtype, work, 3 * size, size, shape=(12, tokens, tokens, head_dim))  # type: ignore[arg-type]


def test_vitc_s_own_is_the_models_prediction_and_comes_first() -> None:
    target = targets.load("orin")
    first, *others = attention_options(cost(), target)
    assert (first.name, first.ms) == ("vitc", predict([cost()], target).ms)
    assert [o.name for o in others] == ["TensorRT INT8 fused", "TensorRT FP16 fused", "TensorRT FP16 not fused"]
    assert first.ms < others[1].ms < others[2].ms  # type: ignore[operator]


def test_fp16_has_no_int8_to_be_compared_with() -> None:
    options = attention_options(cost(dtype="fp16"), targets.load("orin"))
    assert [o.name for o in options] == ["vitc", "TensorRT FP16 fused", "TensorRT FP16 not fused"]
    assert options[0].ms == options[1].ms  # the same work, and the model knows no difference


def test_an_int8_border_is_twice_as_wide_in_fp16() -> None:
    target = targets.load("orin")
    whole, half = cost(tokens=4096), cost(tokens=4096, dtype="fp16")
    assert attention_options(whole, target)[2].ms == attention_options(half, target)[1].ms


@pytest.mark.parametrize(
    ("name", "given", "why"),
    [
        ("orin-nano", {}, "none is chosen on Orin (NVIDIA/TensorRT#4167)"),
        ("rtx-4090", {"head_dim": 80}, "it has heads of 16, 32, 64 only"),
        ("rtx-4090", {"tokens": 577}, "it takes at most 512 tokens"),
    ],
)
def test_where_tensorrt_has_no_int8_attention(name: str, given: dict[str, int], why: str) -> None:
    option = attention_options(cost(**given), targets.load(name))[1]
    assert (option.ms, option.why) == (None, why)


def test_where_it_has() -> None:
    option = attention_options(cost(), targets.load("rtx-4090"))[1]
    assert option.ms is not None
    assert option.why == ""


def test_the_scores_of_three_kernels_go_through_memory() -> None:
    """At 4096 tokens they are 400 MB, twice written and twice read: more than all else."""
    target = targets.load("orin")
    options = attention_options(dataclasses.replace(cost(tokens=4096, dtype="fp16")), target)
    scores = 2 * 12 * 4096**2
    assert options[2].ms > 4 * scores / (target.memory_gbs * 1e6)  # type: ignore[operator]
