"""The power rails of a Jetson, from its INA3221 monitors' sysfs files.

AGX Orin has VDD_GPU_SOC, VDD_CPU_CV and VIN_SYS_5V0 at address 0x40 and VDDQ_VDD2_1V8AO at 0x41; Orin NX
and Nano have VDD_IN, VDD_CPU_GPU_CV and VDD_SOC. The rails are not added up here: on some boards one feeds
another. A figure without its rail and power mode can't be compared with anything, so both are always given.

Sources: NVIDIA Jetson Linux Developer Guide, "Platform Power and Performance", section on the INA3221; and
hwmon's sysfs interface for the units (in: millivolt, curr: milliampere).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

_MONITORS = "sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*"
_MODE_STATUS = "var/lib/nvpmodel/status"
_MODE_TABLE = "etc/nvpmodel.conf"


@dataclass(frozen=True)
class Power:
    """What the device draws.

    rails:  name -> milliwatt; None where this machine has none to read.
    mode:   the power mode's name; None where it is not known.
    reason: why there are no rails.
    """

    rails: Mapping[str, float] | None
    mode: str | None = None
    reason: str = ""

    def __str__(self) -> str:
        if self.rails is None:
            return f"not measured ({self.reason})"
        rails = ", ".join(f"{name} {milliwatt:.0f} mW" for name, milliwatt in self.rails.items())
        return f"{rails}; power mode {self.mode or 'unknown'}{'; ' + self.reason if self.reason else ''}"


def read_power(root: Path = Path("/")) -> Power:
    """What the rails take now. `root`: where `/sys`, `/etc` and `/var` are."""
    monitors = sorted(root.glob(_MONITORS))
    if not monitors:
        return Power(
            None,
            reason=f"no INA3221 power monitor under {root / 'sys/bus/i2c/drivers/ina3221'}: not a Jetson",
        )
    rails, faults = {}, []
    for monitor in monitors:
        # A channel without a label, or labelled NC, is not connected.
        for label in sorted(monitor.glob("in*_label")):
            channel = label.name[2:-6]
            try:
                name = label.read_text().strip()
                if not channel.isdigit() or name in ("", "NC", "sum of shunt voltages"):
                    continue
                millivolt = float((monitor / f"in{channel}_input").read_text())
                milliampere = float((monitor / f"curr{channel}_input").read_text())
            except (OSError, ValueError) as error:
                faults.append(f"{label}: {error}")
                continue
            rails[name] = millivolt * milliampere / 1e3
    if not rails:
        reason = "; ".join(faults) if faults else f"{', '.join(map(str, monitors))} has no labelled channel"
        return Power(None, reason=reason)
    return Power(rails, _mode(root), "; ".join(faults))


def _mode(root: Path) -> str | None:
    """The mode nvpmodel set last, by its name in the board's table."""
    try:
        status = re.search(r"pmode:\s*(\d+)", (root / _MODE_STATUS).read_text())
    except OSError:
        return None
    if status is None:
        return None
    number = int(status.group(1))
    try:
        table = (root / _MODE_TABLE).read_text()
    except OSError:
        return f"ID {number}"
    names: dict[int, str] = {
        int(i): name for i, name in re.findall(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", table)
    }
    return names.get(number, f"ID {number}")


class PowerSampler:
    """Reads the rails every `period` seconds in a thread of its own, from entering to leaving."""

    def __init__(self, root: Path = Path("/"), period: float = 0.05) -> None:
        self._root = root
        self._period = period
        self._readings: list[Power] = []
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> PowerSampler:
        self._readings = [read_power(self._root)]
        # Nothing to read now: nothing to read later either, and no thread to disturb what is measured.
        if self._readings[0].rails is not None:
            self._thread = threading.Thread(target=self._sample, daemon=True)
            self._thread.start()
        return self

    def _sample(self) -> None:
        while not self._done.wait(self._period):
            self._readings.append(read_power(self._root))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        if self._thread is not None:
            self._thread.join()

    def mean(self) -> Power:
        """The mean of each rail over the readings after the first, which was taken before the load began."""
        first, *rest = self._readings
        if first.rails is None:
            return first
        tables = [reading.rails for reading in rest if reading.rails is not None]
        if not tables:
            return Power(
                first.rails,
                first.mode,
                f"one reading, from the start: the run was shorter than {self._period} s",
            )
        rails = {name: sum(t.get(name, 0.0) for t in tables) / len(tables) for name in first.rails}
        return Power(rails, first.mode, first.reason)
