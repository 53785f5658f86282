"""Factors that make a tensor's channels alike before one scale is put on all of them.

x · Wᵀ = ((x − c) / s) · (s W)ᵀ + W c, for any c and s per channel. With s = max|x − c|^α / max|W|^(1−α) this is
SmoothQuant (Xiao et al., arXiv 2211.10438, eq. 4); with α = 1 RepQ-ViT's re-parameterisation of LayerNorm's
per-channel scales into one per tensor (Li et al., arXiv 2212.08254, section 3.2); with c the middle of each channel's
range Outlier Suppression+ (Wei et al., arXiv 2304.09145, eq. 3), whose shift makes symmetric ranges fit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vitc.calibration.findings import Smoothed
from vitc.passes.quantization.error.measured_error import TensorProbe, WeightProbe
from vitc.passes.quantization.ranges import HEADROOM
from vitc.passes.quantization.scales import fake_quantize_weight

#: A candidate that gains less than this is noise of the sample.
_LEAST_GAIN = 0.03
_TINY = 1e-5


@dataclass(frozen=True)
class Smoothing:
    """(x − shift) / scale, and what it gains.

    shift:  [C].
    scale:  [C].
    label:  how it was found, for the report.
    before: the error of INT8 at the model's outputs without it.
    after:  the error with it.
    """

    shift: Tensor
    scale: Tensor
    label: str
    before: float
    after: float

    @property
    def factors(self) -> Smoothed:
        """What is kept of it: nothing, where it gains too little."""
        if self.kept:
            return Smoothed(self.shift, self.scale)
        return Smoothed(torch.zeros_like(self.shift), torch.ones_like(self.scale))

    @property
    def kept(self) -> bool:
        return self.after < (1 - _LEAST_GAIN) * self.before


def search_gemm(
    tensor: TensorProbe, weight: WeightProbe, weight_peak: Tensor, alphas: Sequence[float], shifts: bool
) -> Smoothing:
    """For x that is read by weights; `weight_peak` [C]: the largest magnitude in each of their columns."""

    def error(shift: Tensor, scale: Tensor) -> float:
        rounded = fake_quantize_weight(weight.weight * scale) / scale
        return _range_error(tensor.smoothed(shift, scale)) + weight.error(rounded)

    def factors(shift: Tensor, alpha: float) -> Tensor:
        return smoothing_scale(tensor.channels.smoothed(shift, _ones(shift)).peak, weight_peak, alpha)

    return _search(tensor, alphas, shifts, factors, error)


def search_scores(query: TensorProbe, keys: TensorProbe, alphas: Sequence[float], shifts: bool) -> Smoothing:
    """For q / s and (k − c) · s; the shift is K's."""

    def error(shift: Tensor, scale: Tensor) -> float:
        return _range_error(query.smoothed(torch.zeros_like(shift), scale)) + _range_error(
            keys.smoothed(shift, 1 / scale)
        )

    def factors(shift: Tensor, alpha: float) -> Tensor:
        return smoothing_scale(query.channels.peak, keys.channels.smoothed(shift, _ones(shift)).peak, alpha)

    return _search(keys, alphas, shifts, factors, error)


def _search(
    shifted: TensorProbe,
    alphas: Sequence[float],
    shifts: bool,
    factors: Callable[[Tensor, float], Tensor],
    error: Callable[[Tensor, Tensor], float],
) -> Smoothing:
    none = torch.zeros_like(shifted.channels.mean)
    before = error(none, _ones(none))
    best = Smoothing(none, _ones(none), "none", before, before)
    for name, shift in (("", none), (" shifted", shifted.channels.middle))[: 2 if shifts else 1]:
        for alpha in alphas:
            scale = factors(shift, alpha)
            after = error(shift, scale)
            if after < best.after:
                best = Smoothing(shift, scale, f"α={alpha:g}{name}", before, after)
    return best


def _range_error(tensor: TensorProbe) -> float:
    """With the best range that clips nothing seen."""
    peak = float(tensor.channels.peak.max())
    rounding = tensor.rounding(peak)
    return min(rounding * room**2 + tensor.unseen_clipping(room * peak) for room in (1.0, *HEADROOM))


def _ones(like: Tensor) -> Tensor:
    return torch.ones_like(like)


def smoothing_scale(peak: Tensor, weight_peak: Tensor, alpha: float) -> Tensor:
    """max|x|^α / max|W|^(1−α), with a geometric mean of 1, so that the tensor's magnitude stays where it was."""
    logs = alpha * _log(peak) - (1 - alpha) * _log(weight_peak)
    return (logs - logs.mean()).exp()


def _log(peak: Tensor) -> Tensor:
    """A channel that is (nearly) zero throughout must not get a huge factor."""
    return peak.clamp_min(_TINY * float(peak.max().clamp_min(_TINY))).log()
