"""The record of one device: what it can hold, how fast it is, which engines serve it, and who says so."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from vitc.errors import TargetError, unknown
from vitc.version import VERSION_FORM, version_numbers

# What a TensorRT target cannot do without; a CPU's rates are measured on the machine at hand instead.
_NEEDED_BY_TENSORRT = (
    "compute_capability",
    "sm_count",
    "clock_mhz",
    "int8_tops",
    "fp16_tflops",
    "fp32_tflops",
    "memory_gbs",
    "l2_bytes",
    "shared_memory_per_block",
    "shared_memory_per_sm",
    "registers_per_sm",
    "tensorrt_min",
    "tensorrt_max",
)


@dataclass(frozen=True)
class PowerMode:
    """One nvpmodel mode. What is None is as in the mode the target's own figures are for."""

    name: str
    gpu_mhz: float
    watts: float | None = None  # the budget; None: no cap
    sm_count: int | None = None
    memory_gbs: float | None = None


@dataclass(frozen=True)
class Utilisation:
    """The share of each peak that large, well-shaped work reaches, in (0, 1].

    gemm_int8: of INT8's rate, by linears and convolutions.
    gemm_fp16: of FP16's.
    gemm_fp32: of FP32's.
    attention: of the rate of its dtype, by the attention kernel.
    memory:    of the memory's bandwidth.
    """

    gemm_int8: float
    gemm_fp16: float
    gemm_fp32: float
    attention: float
    memory: float


@dataclass(frozen=True)
class Target:
    """One device. Bytes are bytes, GB/s are 10⁹ bytes/s, rates are dense 10¹² operations/s (one MAC = two).

    Raises `TargetError` on construction when figures are missing, not positive, or contradict each other.
    """

    name: str
    title: str
    kind: Literal["cpu", "tensorrt"]
    default_precision: Literal["fp16", "fp32"]
    int8_quantum: int  # channels: GEMM widths should be multiples of this
    launch_overhead_us: float  # of one kernel in a running engine: the gap to the next one, ramp up and down
    utilisation: Utilisation

    compute_capability: str | None = None  # "8.7"; None for a CPU
    sm_count: int | None = None
    clock_mhz: float | None = None
    power_modes: tuple[PowerMode, ...] = ()

    int8_tops: float | None = None
    fp16_tflops: float | None = None
    tf32_tflops: float | None = None  # what TensorRT uses for FP32 matrix products by default, where it exists
    fp32_tflops: float | None = None
    memory_gbs: float | None = None
    l2_bytes: int | None = None
    shared_memory_per_block: int | None = None  # the most one block can opt in to
    shared_memory_per_sm: int | None = None
    registers_per_sm: int | None = None  # 32-bit
    cache_per_core: int | None = None  # a CPU core's own L2, bytes

    tensorrt_min: str | None = None  # both ends are included
    tensorrt_max: str | None = None
    jetpack: tuple[str, ...] = ()
    rtx_buildable: bool = False  # TensorRT-RTX builds for this very capability on a machine without a GPU
    proof_capability: str | None = None  # trt.ComputeCapability to prove the network with: own, or nearest

    sources: dict[str, str] = field(default_factory=dict, hash=False)  # field -> where the figure is from

    def __post_init__(self) -> None:
        problems = self._problems()
        if problems:
            raise TargetError(f"target {self.name!r} is not valid: {'; '.join(problems)}")

    @property
    def sm(self) -> int | None:
        """Compute capability as nvcc spells it: 87 for "8.7"; None for a CPU."""
        return None if self.compute_capability is None else int(self.compute_capability.replace(".", ""))

    @property
    def arch(self) -> str | None:
        """Compute capability as the kernel's cubins are named: "sm_87"; None for a CPU."""
        return None if self.sm is None else f"sm_{self.sm}"

    @property
    def tile_memory(self) -> int:
        """Bytes of fast memory one attention tile may fill: shared memory of a block, or a core's own L2."""
        memory = self.cache_per_core if self.kind == "cpu" else self.shared_memory_per_block
        assert memory is not None  # __post_init__ has seen to it
        return memory

    def with_measured(
        self,
        *,
        source: str,
        int8_tops: float | None = None,
        fp16_tflops: float | None = None,
        fp32_tflops: float | None = None,
        memory_gbs: float | None = None,
        cache_per_core: int | None = None,
    ) -> Target:
        """The same target with a roofline measured on the machine at hand; `source` says how and where."""
        given = {
            "int8_tops": int8_tops,
            "fp16_tflops": fp16_tflops,
            "fp32_tflops": fp32_tflops,
            "memory_gbs": memory_gbs,
            "cache_per_core": cache_per_core,
        }
        measured: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
        return replace(self, **measured, sources={**self.sources, **dict.fromkeys(measured, source)})

    def at_power_mode(self, name: str) -> Target:
        """The same device in another power mode: rates scale with clock and SMs, memory as the mode says."""
        modes = {mode.name: mode for mode in self.power_modes}
        if name not in modes:
            raise TargetError(unknown(f"power mode of {self.name}", name, modes))
        mode = modes[name]
        assert self.clock_mhz is not None
        assert self.sm_count is not None
        sm_count = mode.sm_count or self.sm_count
        scale = (mode.gpu_mhz / self.clock_mhz) * (sm_count / self.sm_count)
        rates = ("int8_tops", "fp16_tflops", "tf32_tflops", "fp32_tflops")
        scaled: dict[str, Any] = {rate: value * scale for rate in rates if (value := getattr(self, rate)) is not None}
        return replace(
            self,
            title=f"{self.title}, {name}",
            clock_mhz=mode.gpu_mhz,
            sm_count=sm_count,
            memory_gbs=mode.memory_gbs or self.memory_gbs,
            **scaled,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `vitc.targets.loader.from_dict` reads it back."""
        return asdict(self)

    def _problems(self) -> list[str]:
        problems = []
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", self.name):
            problems.append("name: lower-case letters, digits, '-' and '.' only")
        for where, value in _numbers(self):
            if value <= 0:
                problems.append(f"{where} is {value:g}, must be positive")
            elif where.startswith("utilisation.") and value > 1:
                problems.append(f"{where} is {value:g}, must be at most 1")
        if self.kind == "cpu" and self.cache_per_core is None:
            problems.append("a cpu target needs cache_per_core")
        if self.kind == "tensorrt":
            missing = [key for key in _NEEDED_BY_TENSORRT if getattr(self, key) is None]
            if missing:
                problems.append(f"a tensorrt target needs {', '.join(missing)}")
        if self.compute_capability is not None and not re.fullmatch(r"[0-9]{1,2}\.[0-9]", self.compute_capability):
            problems.append(f"compute_capability is {self.compute_capability!r}, must look like '8.7'")
        elif self.rtx_buildable and self.proof_capability != f"SM{self.sm}":
            problems.append(f"rtx_buildable, so proof_capability must be 'SM{self.sm}', not {self.proof_capability!r}")
        if self.proof_capability is not None and not re.fullmatch(r"SM[0-9]{2,3}", self.proof_capability):
            problems.append(f"proof_capability is {self.proof_capability!r}, must look like 'SM86'")
        problems += self._version_problems()
        known = {where for where, _ in _numbers(self)} | {item.name for item in fields(self)}
        problems += [f"sources: {unknown('field', key, known)}" for key in self.sources if key not in known]
        return problems

    def _version_problems(self) -> list[str]:
        problems = []
        for key in ("tensorrt_min", "tensorrt_max"):
            version = getattr(self, key)
            if version is not None and not VERSION_FORM.fullmatch(version):
                problems.append(f"{key} is {version!r}, must look like '10.3'")
        if not problems and self.tensorrt_min and self.tensorrt_max:
            low, high = version_numbers(self.tensorrt_min), version_numbers(self.tensorrt_max)
            if low > high:
                problems.append(f"tensorrt_min {self.tensorrt_min} is above tensorrt_max {self.tensorrt_max}")
        return problems


def _numbers(record: Any, prefix: str = "") -> list[tuple[str, float]]:
    """Every figure of a record with its dotted name."""
    found: list[tuple[str, float]] = []
    for item in fields(record):
        value = getattr(record, item.name)
        where = prefix + item.name
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            found.append((where, value))
        elif isinstance(value, Utilisation):
            found += _numbers(value, f"{where}.")
        elif isinstance(value, tuple):
            for entry in value:
                if isinstance(entry, PowerMode):
                    found += _numbers(entry, f"{where}.{entry.name}.")
    return found
