from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from vitc.errors import InputError, InternalError
from vitc.kernels.fields import AttentionFields, attention_spec, read_spec, spec_path, split_scales

VALUES: dict[str, Any] = {
    "layout": "packed",
    "num_heads": 12,
    "head_dim": 64,
    "scale": 0.125,
    "has_bias": 0,
    "tile_q": 64,
    "tile_k": 64,
    "pv": "int8",
    "q_scale": 0.02,
    "k_scale": 0.03,
    "v_scale": 0.04,
    "out_scale": 0.0,
    "head_scales": (1.0,),
    "causal": 0,
}


def test_the_record_has_the_descriptions_fields_in_its_order() -> None:
    declared = [spec.name for spec in attention_spec().fields]
    assert [field.name for field in dataclasses.fields(AttentionFields)] == declared


def test_attributes_round_trip() -> None:
    fields = AttentionFields(**VALUES)
    assert fields.to_attributes() == VALUES
    attributes = {**fields.to_attributes(), "plugin_namespace": "vitc", "plugin_version": "1"}
    assert AttentionFields.from_attributes(attributes) == fields


def test_an_int_is_taken_where_a_float_is_meant() -> None:
    assert isinstance(AttentionFields(**{**VALUES, "out_scale": 1}).out_scale, float)


@pytest.mark.parametrize(
    ("layout", "has_bias", "names"),
    [
        ("packed", 0, ("qkv",)),
        ("packed", 1, ("qkv", "bias")),
        ("bnhd", 0, ("q", "k", "v")),
        ("bhnd", 1, ("q", "k", "v", "bias")),
    ],
)
def test_input_names(layout: str, has_bias: int, names: tuple[str, ...]) -> None:
    assert AttentionFields(**{**VALUES, "layout": layout, "has_bias": has_bias}).input_names == names


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "layout",
            "nhd",
            "layout of vitc::VitAttention 'nhd'; known: bhnd, bnhd, packed; did you mean",
        ),
        (
            "layout",
            3,
            "field 'layout' of vitc::VitAttention is 3, and must be a string, one of: packed,",
        ),
        ("num_heads", 0, "field 'num_heads' of vitc::VitAttention is 0, and must be at least 1 (H)"),
        (
            "num_heads",
            2**31,
            "is 2147483648, and must be at most 2147483647 (H)",
        ),
        ("num_heads", 1.5, "field 'num_heads' of vitc::VitAttention is 1.5, and must be an int (H)"),
        ("num_heads", True, "field 'num_heads' of vitc::VitAttention is True, and must be an int (H)"),
        (
            "has_bias",
            2,
            "field 'has_bias' of vitc::VitAttention is 2, and must be at most 1 (1: the",
        ),
        ("scale", float("nan"), "field 'scale' of vitc::VitAttention is nan, and must be a finite float"),
        ("scale", "big", "field 'scale' of vitc::VitAttention is 'big', and must be a finite float"),
        ("out_scale", -0.5, "field 'out_scale' of vitc::VitAttention is -0.5, and must be at least 0.0"),
        ("head_scales", 1.0, "field 'head_scales' of vitc::VitAttention is 1.0, and must be a list of floats (1:"),
        ("head_scales", (), "'head_scales' of vitc::VitAttention is (), and must be a list of floats (1:"),
        ("head_scales", (1.0, -1.0), "'head_scales' of vitc::VitAttention is -1.0, and must be at least 0.0"),
        ("head_scales", (1.0, 2.0), "has 2 factors for 12 heads; it must be [1.0], or 3*12 factors > 0"),
        ("head_scales", (0.0,) * 36, "has 36 factors for 12 heads; it must be [1.0], or 3*12 factors > 0"),
        ("k_scale", 0.0, "are (0.02, 0.0, 0.04): either all are 0 (floating-point inputs) or all are > 0"),
    ],
)
def test_values_out_of_bounds(name: str, value: object, message: str) -> None:
    with pytest.raises(InputError) as error:
        AttentionFields(**{**VALUES, name: value})
    assert message in str(error.value)


def test_more_heads_than_may_have_scales_of_their_own() -> None:
    with pytest.raises(InputError, match="has 65 heads, and at most 64 may have scales of their own"):
        AttentionFields(**{**VALUES, "num_heads": 65, "head_scales": (2.0,) * 195})


def test_scales_are_split_into_common_ones_and_factors() -> None:
    assert split_scales([0.1, 0.2, 0.3]) == ((0.1, 0.2, 0.3), (1.0,))
    assert split_scales([0.5, 0.25, 1.0, 1.0, 0.1, 0.1]) == ((0.5, 1.0, 0.1), (1.0, 0.5, 1.0, 1.0, 1.0, 1.0))


def test_missing_fields_are_named() -> None:
    attributes = {name: value for name, value in VALUES.items() if name not in ("pv", "scale")}
    with pytest.raises(InputError, match=r"lacks the fields scale, pv; all of layout, num_heads"):
        AttentionFields.from_attributes(attributes)


def test_an_unknown_attribute_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"unknown field of vitc::VitAttention 'head'; known: .*did you mean 'head_dim'"
    ):
        AttentionFields.from_attributes({**VALUES, "head": 3})


def test_a_description_that_contradicts_itself() -> None:
    text = spec_path().read_text(encoding="utf-8")
    with pytest.raises(InternalError, match="declares these fields twice: scale"):
        read_spec(text.replace('name = "tile_q"', 'name = "scale"'))
    with pytest.raises(
        InternalError, match=r"unknown type of field 'num_heads' .* 'long'; known: float, floats, int, string"
    ):
        read_spec(text.replace('name = "num_heads"\ntype = "int"', 'name = "num_heads"\ntype = "long"'))
