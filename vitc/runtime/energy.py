"""What a run took from the rails that exist here: a Jetson's INA3221 monitors, an NVIDIA GPU through NVML, an x86
processor's RAPL counters. Each figure has the name of its rail; where there is none to read, the reason.

Rails are never added up: on a Jetson one feeds another, and a processor's package holds its cores. Sources: for the
INA3221 see vitc.runtime.power; Linux kernel, "Power Capping Framework" (energy_uj counts microjoules and starts again
at max_energy_range_uj); NVML API reference (nvmlDeviceGetTotalEnergyConsumption: millijoules since the driver
was loaded).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from vitc.runtime.power import PowerSampler, read_power

_POWERCAP = "sys/class/powercap"

# A counter of microjoules starts again within a minute at full load: it is read more often.
_PERIOD = 0.05


@dataclass(frozen=True)
class Energy:
    """`watts`: rail -> mean watts over `seconds`; None where nothing can be read here, with the `reason`. `mode`: a
    Jetson's power mode."""

    watts: Mapping[str, float] | None
    seconds: float
    mode: str | None = None
    reason: str = ""

    def joules_per(self, count: int) -> dict[str, float]:
        """Rail -> joules for each of `count` things done meanwhile."""
        if self.watts is None or not count:
            return {}
        return {rail: watts * self.seconds / count for rail, watts in self.watts.items()}


class EnergyMeter:
    """Measures from entering to leaving: `with EnergyMeter() as meter: …; meter.energy`. `root`: where /sys is."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._sampler: PowerSampler | None = None
        self._counters: dict[str, _Counter] = {}
        self._refusals: list[str] = []
        self._began = 0.0
        self.energy = Energy(None, 0.0, reason="not measured yet")

    def __enter__(self) -> EnergyMeter:
        if read_power(self._root).rails is not None:
            self._sampler = PowerSampler(self._root, _PERIOD)
            self._sampler.__enter__()
        else:
            self._counters = {**self._rapl(), **self._nvml()}
        self._began = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        seconds = time.perf_counter() - self._began
        if self._sampler is not None:
            self._sampler.__exit__(kind, error, trace)
            power = self._sampler.mean()
            watts = None if power.rails is None else {name: mw / 1e3 for name, mw in power.rails.items()}
            self.energy = Energy(watts, seconds, power.mode, power.reason)
        elif self._counters:
            watts = {name: counter.since() / max(seconds, 1e-9) for name, counter in self._counters.items()}
            self.energy = Energy(watts, seconds, reason="; ".join(self._refusals))
        else:
            self.energy = Energy(None, seconds, reason="; ".join(self._refusals))

    def look(self) -> None:
        """Call at least once a minute in a long run: counters start again at their end."""
        for counter in self._counters.values():
            counter.since()

    def _rapl(self) -> dict[str, _Counter]:
        zones = sorted((self._root / _POWERCAP).glob("intel-rapl:*"))
        counters: dict[str, _Counter] = {}
        refused = []
        for zone in zones:
            try:
                name = f"RAPL {(zone / 'name').read_text().strip()} ({zone.name.removeprefix('intel-rapl:')})"
                counters[name] = _RaplCounter(zone)
            except (OSError, ValueError) as error:
                refused.append(f"{zone.name}: {getattr(error, 'strerror', None) or error}")
        if not zones:
            self._refusals.append(
                f"no INA3221 monitor and no RAPL zone under {self._root / 'sys'}: not a Jetson, and "
                "no x86 processor that lets its counters be read (a virtual machine has none)"
            )
        elif not counters:
            self._refusals.append(f"RAPL cannot be read: {'; '.join(refused)} (its counters are root's)")
        return counters

    def _nvml(self) -> dict[str, _Counter]:
        if self._root != Path("/"):
            return {}
        try:
            import pynvml  # type: ignore[import-not-found,import-untyped,unused-ignore]
        except ImportError:
            return {}
        try:
            pynvml.nvmlInit()
            handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
            return {f"NVML GPU {i}": _NvmlCounter(pynvml, handle) for i, handle in enumerate(handles)}
        except pynvml.NVMLError:
            return {}  # no NVIDIA driver: there is no such rail


class _Counter:
    """Joules since it was made."""

    def since(self) -> float:
        raise NotImplementedError


class _RaplCounter(_Counter):
    def __init__(self, zone: Path) -> None:
        self._file = zone / "energy_uj"
        self._range = int((zone / "max_energy_range_uj").read_text())
        self._last = int(self._file.read_text())
        self._sum = 0

    def since(self) -> float:
        now = int(self._file.read_text())
        self._sum += (now - self._last) % (self._range + 1)
        self._last = now
        return self._sum / 1e6


class _NvmlCounter(_Counter):
    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle
        self._first = nvml.nvmlDeviceGetTotalEnergyConsumption(handle)

    def since(self) -> float:
        return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) - self._first) / 1e3
