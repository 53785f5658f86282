"""Energy from recorded trees of /sys: a Jetson, an x86 processor, a machine with neither, counters that may not be
read."""

from __future__ import annotations

from pathlib import Path

import pytest

from vitc.runtime import energy
from vitc.runtime.energy import Energy, EnergyMeter


def _rapl(root: Path, microjoules: int, most: int = 1000) -> Path:
    zone = root / "sys/class/powercap/intel-rapl:0"
    zone.mkdir(parents=True)
    (zone / "name").write_text("package-0\n")
    (zone / "max_energy_range_uj").write_text(f"{most}\n")
    (zone / "energy_uj").write_text(f"{microjoules}\n")
    return zone


def test_rapl_counters_start_again_at_their_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zone = _rapl(tmp_path, 900)
    clock = iter([0.0, 2.0])
    monkeypatch.setattr(energy.time, "perf_counter", lambda: next(clock))
    with EnergyMeter(tmp_path) as meter:
        (zone / "energy_uj").write_text("999\n")
        meter.look()
        (zone / "energy_uj").write_text("100\n")
    assert meter.energy.watts == {"RAPL package-0 (0)": pytest.approx((99 + 102) / 1e6 / 2.0)}
    assert meter.energy.joules_per(10) == {"RAPL package-0 (0)": pytest.approx(201e-6 / 10)}


def test_a_jetsons_rails_have_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon0"
    folder.mkdir(parents=True)
    for name, value in (("in1_label", "VDD_GPU_SOC"), ("in1_input", "5000"), ("curr1_input", "2000")):
        (folder / name).write_text(value)
    with EnergyMeter(tmp_path) as meter:
        pass
    assert meter.energy.watts == {"VDD_GPU_SOC": 10.0}


def test_a_machine_without_rails_says_so(tmp_path: Path) -> None:
    with EnergyMeter(tmp_path) as meter:
        pass
    assert meter.energy.watts is None
    assert "no INA3221 monitor and no RAPL zone" in meter.energy.reason
    assert meter.energy.joules_per(10) == {}


def test_counters_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    zone = _rapl(tmp_path, 900)
    (zone / "energy_uj").unlink()
    with EnergyMeter(tmp_path) as meter:
        pass
    assert meter.energy.watts is None
    assert "RAPL cannot be read: intel-rapl:0: No such file" in meter.energy.reason


def test_nothing_done_costs_nothing_each() -> None:
    assert Energy({"a": 5.0}, 2.0).joules_per(0) == {}
