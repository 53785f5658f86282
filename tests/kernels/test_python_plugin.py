"""The plugin's rules, which need no TensorRT, and the class itself on the TensorRT-RTX wheel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from vitc.errors import InputError, LoweringError
from vitc.kernels import python_plugin
from vitc.kernels.fields import AttentionFields

FLOAT = AttentionFields("bnhd", 3, 32, 0.1, 0, 64, 64, "int8", 0.0, 0.0, 0.0, 0.0)
INT8 = replace(FLOAT, q_scale=0.1, k_scale=0.1, v_scale=0.1)


class Integers:
    """Dimension arithmetic on plain ints."""

    def constant(self, value: int) -> int:
        return value


@pytest.mark.parametrize(
    ("layout", "inputs"),
    [
        ("packed", [(2, 7, 288)]),
        ("bnhd", [(2, 7, 96), (2, 9, 96), (2, 9, 96)]),
        ("bhnd", [(2, 3, 7, 32), (2, 3, 9, 32), (2, 3, 9, 32)]),
    ],
)
def test_the_output_is_batch_tokens_width(layout: str, inputs: list[tuple[int, ...]]) -> None:
    fields = replace(FLOAT, layout=layout)
    assert python_plugin.output_shape(fields, inputs, Integers()) == [2, 7, 96]


def test_an_input_of_the_wrong_rank() -> None:
    with pytest.raises(LoweringError, match="has 3 dimensions; layout 'bhnd' takes 4"):
        python_plugin.output_shape(replace(FLOAT, layout="bhnd"), [(2, 7, 96)], Integers())


def test_a_wrong_number_of_inputs() -> None:
    with pytest.raises(LoweringError, match="has 2 inputs; layout 'bnhd' with has_bias=0 takes 3: q, k, v"):
        python_plugin.check_inputs(FLOAT, 2)


@pytest.mark.parametrize(
    ("fields", "dtypes", "allowed"),
    [
        (FLOAT, ["float16"] * 4, True),
        (FLOAT, ["float32"] * 4, True),
        (FLOAT, ["int8"], False),
        (FLOAT, ["float16", "float32"], False),
        (FLOAT, ["float16", "float16", "float16", "float32"], False),
        (replace(FLOAT, out_scale=0.1), ["float16", "float16", "float16", "int8"], True),
        (replace(FLOAT, out_scale=0.1), ["float16", "float16", "float16", "float16"], False),
        (INT8, ["int8", "int8", "int8", "float16"], True),
        (INT8, ["int8", "int8", "int8", "float32"], False),
        (INT8, ["float16"], False),
        (replace(INT8, out_scale=0.1), ["int8"] * 4, True),
        (replace(INT8, has_bias=1), ["int8", "int8", "int8", "float32"], True),
        (replace(INT8, has_bias=1), ["int8", "int8", "int8", "int8"], False),
    ],
)
def test_dtypes(fields: AttentionFields, dtypes: list[str], allowed: bool) -> None:
    assert python_plugin.dtype_allowed(fields, len(dtypes) - 1, dtypes) is allowed


class Written:
    """A `Launch` that writes down what it is asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __call__(self, *arguments: Any) -> None:
        self.calls.append(arguments)

    def prepare(self, *arguments: Any) -> None:
        self.calls.append(arguments)


class TestClass:
    """On the real bindings."""

    @pytest.fixture
    def trt(self) -> Any:
        return pytest.importorskip("tensorrt_rtx")

    def test_the_field_collection_round_trips(self, trt: Any) -> None:
        stored = python_plugin.StoredFields.of(trt, INT8)
        entries = stored.collection
        assert [entry.name for entry in entries] == list(INT8.to_attributes())
        read = python_plugin.read_collection(entries)
        assert read.layout == "bnhd"
        assert read.num_heads == 3
        assert read.q_scale == pytest.approx(0.1)  # stored as FP32

    def test_a_field_of_several_values(self, trt: Any) -> None:
        values = np.array([32, 64], np.int32)
        entry = trt.PluginField("head_dim", values, trt.PluginFieldType.INT32)
        with pytest.raises(InputError, match="'head_dim' of vitc::VitAttention holds 2 values, not one"):
            python_plugin.read_collection([entry])

    def test_a_clone_has_the_same_fields(self, trt: Any) -> None:
        made = self.make(trt)
        assert made.clone() is not made
        assert made.clone().fields == made.fields
        assert python_plugin.read_collection(made.clone().get_fields_to_serialize()) == made.fields

    def test_a_run_prepares_before_it_launches(self, trt: Any) -> None:
        launch = Written()
        made = self.make(trt, launch).attach_to_context(None)
        inputs = [Described((2, 7, 96), trt.int8)] * 3
        made.on_shape_change(inputs, [])
        made.enqueue(inputs, [Described((2, 7, 96), trt.float16)], [1, 2, 3], [4], 0, 5)
        assert launch.calls == [
            (made.fields,),
            (made.fields, [(2, 7, 96)] * 3, ["int8", "int8", "int8", "float16"], [1, 2, 3], [4], 5),
        ]

    def test_contexts_share_nothing_but_the_launch(self, trt: Any) -> None:
        made = self.make(trt)
        first, second = made.attach_to_context(None), made.attach_to_context(None)
        assert first is not second
        assert first.fields == second.fields == made.fields

    def test_scales_by_head_round_trip(self, trt: Any) -> None:
        fields = replace(INT8, head_scales=tuple(0.5 + i / 4 for i in range(9)))
        assert (
            python_plugin.read_collection(python_plugin.StoredFields.of(trt, fields).collection).head_scales
            == fields.head_scales
        )

    def test_an_unknown_tactic(self, trt: Any) -> None:
        with pytest.raises(LoweringError, match="has only tactic 0; TensorRT asked for 7"):
            self.make(trt).set_tactic(7)

    def test_registering_twice_keeps_the_first(self, trt: Any) -> None:
        python_plugin.register(trt)
        first = python_plugin.find_creator(trt)
        python_plugin.register(trt)
        assert first is not None
        assert python_plugin.find_creator(trt) is first

    def make(self, trt: Any, launch: python_plugin.Launch | None = None) -> Any:
        creator, stored = python_plugin.make_creator(trt, launch or Written()), python_plugin.StoredFields.of(trt, INT8)
        return creator.create_plugin("attention", stored.collection, trt.TensorRTPhase.BUILD)

    def test_the_creator_keeps_the_reason_of_a_refusal(self, trt: Any) -> None:
        creator = python_plugin.make_creator(trt, Written())
        with pytest.raises(InputError, match="lacks the fields layout"):
            creator.create_plugin("attention", trt.PluginFieldCollection([]), trt.TensorRTPhase.BUILD)
        assert "lacks the fields layout" in str(creator.refusal)


@dataclass(frozen=True)
class Described:
    """A PluginTensorDesc, as far as enqueue reads it."""

    dims: tuple[int, ...]
    type: Any
