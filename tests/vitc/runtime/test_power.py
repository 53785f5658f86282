"""Rails read from a tree of files like a Jetson's."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from vitc.runtime.power import PowerSampler, read_power


def monitor(root: Path, address: str, rails: dict[int, tuple[str, int, int]]) -> Path:
    folder = root / "sys/bus/i2c/drivers/ina3221" / address / "hwmon" / "hwmon3"
    folder.mkdir(parents=True)
    for channel, (label, millivolt, milliampere) in rails.items():
        (folder / f"in{channel}_label").write_text(f"{label}\n")
        (folder / f"in{channel}_input").write_text(f"{millivolt}\n")
        (folder / f"curr{channel}_input").write_text(f"{milliampere}\n")
    return folder


def power_mode(root: Path, status: str) -> None:
    (root / "var/lib/nvpmodel").mkdir(parents=True)
    (root / "var/lib/nvpmodel/status").write_text(status)
    (root / "etc").mkdir()
    (root / "etc/nvpmodel.conf").write_text(
        "# comment\n< POWER_MODEL ID=0 NAME=MAXN >\nCPU_ONLINE CORE_0 1\n< POWER_MODEL ID=2 NAME=MODE_30W >\n"
    )


AGX = {1: ("VDD_GPU_SOC", 19000, 500), 2: ("VDD_CPU_CV", 19000, 100), 3: ("VIN_SYS_5V0", 5000, 800)}


def test_an_agx_orin(tmp_path: Path) -> None:
    monitor(tmp_path, "1-0040", {**AGX, 7: ("sum of shunt voltages", 1, 1)})
    monitor(tmp_path, "1-0041", {1: ("NC", 0, 0), 2: ("VDDQ_VDD2_1V8AO", 5000, 120)})
    power_mode(tmp_path, "pmode:0002 fmode:quiet\n")
    power = read_power(tmp_path)
    assert power.rails == {
        "VDD_GPU_SOC": 9500.0,
        "VDD_CPU_CV": 1900.0,
        "VIN_SYS_5V0": 4000.0,
        "VDDQ_VDD2_1V8AO": 600.0,
    }
    assert power.mode == "MODE_30W"
    rails = "VDD_GPU_SOC 9500 mW, VDD_CPU_CV 1900 mW, VIN_SYS_5V0 4000 mW, VDDQ_VDD2_1V8AO 600 mW"
    assert str(power) == f"{rails}; power mode MODE_30W"


def test_a_mode_the_table_lacks_and_no_mode_at_all(tmp_path: Path) -> None:
    monitor(tmp_path, "1-0040", {1: ("VDD_IN", 5000, 1000)})
    assert read_power(tmp_path).mode is None
    assert str(read_power(tmp_path)) == "VDD_IN 5000 mW; power mode unknown"
    power_mode(tmp_path, "pmode:0007")
    assert read_power(tmp_path).mode == "ID 7"
    (tmp_path / "etc/nvpmodel.conf").unlink()
    assert read_power(tmp_path).mode == "ID 7"
    (tmp_path / "var/lib/nvpmodel/status").write_text("unknown")
    assert read_power(tmp_path).mode is None


def test_no_monitor(tmp_path: Path) -> None:
    power = read_power(tmp_path)
    assert power.rails is None
    assert power.reason.endswith("sys/bus/i2c/drivers/ina3221: not a Jetson")
    assert str(power).startswith("not measured (no INA3221 power monitor under")


def test_a_monitor_without_rails(tmp_path: Path) -> None:
    folder = monitor(tmp_path, "1-0040", {})
    assert read_power(tmp_path).reason == f"{folder} has no labelled channel"


def test_a_rail_that_can_not_be_read_is_told(tmp_path: Path) -> None:
    folder = monitor(tmp_path, "1-0040", AGX)
    (folder / "curr2_input").write_text("busy")
    (folder / "in3_input").unlink()
    power = read_power(tmp_path)
    assert power.rails == {"VDD_GPU_SOC": 9500.0}
    assert "in2_label: could not convert string to float: 'busy'" in power.reason
    assert "in3_label: " in power.reason
    (folder / "in1_input").write_text("")
    power = read_power(tmp_path)
    assert power.rails is None
    assert "in1_label" in power.reason


def test_sampling_means_the_readings_under_load(tmp_path: Path) -> None:
    folder = monitor(tmp_path, "1-0040", {1: ("VDD_IN", 5000, 1000)})
    with PowerSampler(tmp_path, period=0.01) as sampler:
        # The idle reading from before must not be in the mean.
        (folder / "curr1_input").write_text("3000")
        time.sleep(0.3)
    assert sampler.mean().rails == {"VDD_IN": pytest.approx(15000.0)}


def test_a_run_too_short_to_sample(tmp_path: Path) -> None:
    monitor(tmp_path, "1-0040", {1: ("VDD_IN", 5000, 1000)})
    with PowerSampler(tmp_path, period=60) as sampler:
        pass
    assert sampler.mean().rails == {"VDD_IN": 5000.0}
    assert sampler.mean().reason == "one reading, from the start: the run was shorter than 60 s"


def test_sampling_where_there_is_nothing(tmp_path: Path) -> None:
    with PowerSampler(tmp_path) as sampler:
        pass
    assert sampler.mean().rails is None
