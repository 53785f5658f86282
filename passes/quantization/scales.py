"""Symmetric INT8: step sizes that FP16 and FP32 engines read alike, and weights in them."""

from __future__ import annotations

import torch
from torch import Tensor

_SMALLEST_NORMAL = 2.0**-14
_SMALLEST_SUBNORMAL = 2.0**-24


def step_of(limit: float) -> float:
    """Step of 127 levels, exactly representable in FP16 (rounded up), so FP16 and FP32 engines see the same numbers.
    A tensor that was zero throughout gets the smallest normal FP16 number."""
    return float(_half_up(torch.tensor(max(limit / 127, _SMALLEST_NORMAL))))


def fake_quantize(x: Tensor, limit: float) -> Tensor:
    """x as an engine sees it after Q and DQ with the step of `limit`."""
    step = step_of(limit)
    return torch.clamp(torch.round(x / step), -128, 127) * step


def weight_steps(weight: Tensor) -> Tensor:
    """FP32 steps [out] per output channel that clip nothing. Below the normal range FP16 numbers are 2⁻²⁴ apart, and
    a zero channel gets the smallest of them."""
    wanted = weight.detach().float().flatten(1).abs().amax(1) / 127
    tiny = torch.ceil(wanted / _SMALLEST_SUBNORMAL).clamp_min(1) * _SMALLEST_SUBNORMAL
    return torch.where(wanted > _SMALLEST_NORMAL, _half_up(wanted), tiny)


def quantize_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(int8 weight in [-127, 127], FP32 steps [out]) per output channel, each weight rounded to the nearest."""
    steps = weight_steps(weight)
    shaped = steps.reshape([-1] + [1] * (weight.ndim - 1))
    return torch.clamp(torch.round(weight.float() / shaped), -127, 127).to(torch.int8), steps


def fake_quantize_weight(weight: Tensor) -> Tensor:
    """The weight as an engine sees it after DQ."""
    integers, steps = quantize_weight(weight)
    return integers * steps.reshape([-1] + [1] * (weight.ndim - 1))


def _half_up(steps: Tensor) -> Tensor:
    half = steps.half()
    up = torch.nextafter(half, torch.full_like(half, torch.inf))
    return torch.where(half.float() < steps, up, half).float()
