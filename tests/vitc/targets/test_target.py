"""The record itself: what it refuses, what it derives, how it changes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vitc import targets
from vitc.errors import TargetError
from vitc.targets.loader import from_dict


def test_orin_is_what_its_data_sheet_says() -> None:
    orin = targets.load("orin")
    # 16 SM x 4 tensor cores x 512 INT8 MACs x 2, and 128 FP32 lanes x 2, at the clock.
    assert orin.int8_tops == pytest.approx(16 * 4096 * 1300.5e6 / 1e12, rel=1e-3)
    assert orin.fp32_tflops == pytest.approx(16 * 128 * 2 * 1300.5e6 / 1e12, rel=1e-3)
    assert (orin.sm, orin.l2_bytes, orin.memory_gbs) == (87, 4 * 2**20, 204.8)
    assert orin.tile_memory == orin.shared_memory_per_block == 163 * 1024
    assert (orin.rtx_buildable, orin.proof_capability) == (False, "SM86")


@pytest.mark.parametrize(("mode", "sparse_tops"), [("MAXN", 171), ("50W", 109), ("30W", 41), ("15W", 14)])
def test_power_modes_of_orin_agree_with_nvidia_table(mode: str, sparse_tops: int) -> None:
    assert targets.load("orin").at_power_mode(mode).int8_tops == pytest.approx(sparse_tops / 2, rel=0.02)


def test_power_mode_carries_memory_and_leaves_the_rest() -> None:
    nano = targets.load("orin-nano")
    slow = nano.at_power_mode("15W")
    assert (slow.memory_gbs, slow.clock_mhz, slow.sm_count) == (68.3, 612.0, 8)
    assert slow.fp16_tflops == pytest.approx(16.7 * 0.6)
    assert slow.shared_memory_per_block == nano.shared_memory_per_block


def test_unknown_power_mode_lists_the_known() -> None:
    with pytest.raises(
        TargetError, match=r"unknown power mode of orin '50'; known: 15W, 30W, 50W, MAXN; did you mean '50W'"
    ):
        targets.load("orin").at_power_mode("50")


def test_cpu_takes_a_measured_roofline_with_its_source() -> None:
    cpu = targets.load("cpu")
    assert cpu.int8_tops is None
    assert cpu.compute_capability is None
    assert cpu.sm is None
    measured = cpu.with_measured(int8_tops=0.925, memory_gbs=32.0, source="here, today")
    assert (measured.int8_tops, measured.memory_gbs, measured.fp32_tflops) == (0.925, 32.0, None)
    assert measured.sources["int8_tops"] == measured.sources["memory_gbs"] == "here, today"
    assert measured.sources["cache_per_core"] == cpu.sources["cache_per_core"]
    assert "int8_tops" not in cpu.sources
    assert measured.tile_memory == cpu.cache_per_core


def test_targets_are_values() -> None:
    assert hash(targets.load("orin")) == hash(replace(targets.load("orin")))
    assert targets.load("orin") != targets.load("orin-nx")


@pytest.mark.parametrize("name", targets.available())
def test_to_dict_reads_back(name: str) -> None:
    target = targets.load(name)
    assert from_dict(target.to_dict()) == target


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "My Orin"}, "name: lower-case letters"),
        ({"memory_gbs": 0.0}, "memory_gbs is 0, must be positive"),
        ({"sm_count": -16}, "sm_count is -16, must be positive"),
        ({"l2_bytes": None}, "a tensorrt target needs l2_bytes"),
        ({"compute_capability": "sm_87"}, "compute_capability is 'sm_87', must look like '8.7'"),
        ({"rtx_buildable": True}, "proof_capability must be 'SM87', not 'SM86'"),
        ({"proof_capability": "8.6"}, "proof_capability is '8.6', must look like 'SM86'"),
        ({"tensorrt_min": "ten"}, "tensorrt_min is 'ten', must look like '10.3'"),
        ({"tensorrt_min": "10.20"}, "tensorrt_min 10.20 is above tensorrt_max 10.16"),
        ({"sources": {"clok_mhz": "x"}}, "sources: unknown field 'clok_mhz'.*did you mean 'clock_mhz'"),
        ({"kind": "cpu"}, "a cpu target needs cache_per_core"),
    ],
)
def test_refuses_what_cannot_be(changes: dict[str, object], message: str) -> None:
    with pytest.raises(TargetError, match=message):
        replace(targets.load("orin"), **changes)  # type: ignore[arg-type]


def test_utilisation_is_a_share() -> None:
    orin = targets.load("orin")
    with pytest.raises(TargetError, match=r"utilisation.attention is 25, must be at most 1"):
        replace(orin, utilisation=replace(orin.utilisation, attention=25.0))


def test_versions_compare_as_numbers() -> None:
    # "10.16" < "10.3" as text.
    assert targets.load("orin").tensorrt_max == "10.16"
    with pytest.raises(TargetError, match="above"):
        replace(targets.load("orin"), tensorrt_min="10.16", tensorrt_max="10.3")
