"""What this processor has for INT8."""

from __future__ import annotations

import functools
import platform
from pathlib import Path

# One instruction that multiplies 8-bit integers and adds up in 32 bits: Intel's and AMD's VNNI, Intel's
# AMX, ARM's dot product, under the names /proc/cpuinfo gives them.
_DOT_PRODUCTS = ("amx_int8", "avx512_vnni", "avx_vnni", "avx_vnni_int8", "asimddp", "i8mm")


@functools.cache
def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """The processor's features as Linux names them; empty where they can't be read (another system)."""
    try:
        text = cpuinfo.read_text()
    except OSError:
        return frozenset()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip().lower() in ("flags", "features"):
            return frozenset(value.split())
    return frozenset()


def int8_dot(flags: frozenset[str] | None = None) -> str | None:
    """The name of the INT8 dot product this processor has, or None."""
    have = cpu_flags() if flags is None else flags
    return next((name for name in _DOT_PRODUCTS if name in have), None)


def int8_saturates() -> bool:
    """Whether INT8 products of this processor saturate in 16 bits: x86 without VNNI."""
    return platform.machine().lower() in ("x86_64", "amd64") and int8_dot() is None
