"""A histogram of magnitudes per tensor, in bounded memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from vitc.errors import CalibrationError

BINS = 2048


@dataclass
class MagnitudeHistogram:
    """A histogram of |x| over [0, limit] with a fixed number of bins. When a larger value comes, pairs of bins merge
    and the limit doubles, so memory stays the same however long the stream is."""

    limit: float = 0.0
    peak: float = 0.0
    counts: np.ndarray = field(default_factory=lambda: np.zeros(BINS, dtype=np.int64))

    def update(self, tensor: torch.Tensor, images: int = 1) -> None:
        magnitude = tensor.detach().abs().to(torch.float32).flatten()
        peak = float(magnitude.max())
        if not np.isfinite(peak):
            raise CalibrationError("an activation is NaN or inf while calibrating; the model overflows on these images")
        self.peak = max(self.peak, peak)
        if self.limit == 0.0:
            self.limit = peak
        if peak == 0.0:
            self.counts[0] += magnitude.numel()
            return
        while self.limit < peak:
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(1), np.zeros(BINS // 2, dtype=np.int64)])
            self.limit *= 2
        self.counts += torch.histc(magnitude, BINS, 0.0, self.limit).to(torch.int64).numpy()

    def state(self) -> dict[str, torch.Tensor]:
        return {
            "range": torch.tensor([self.limit, self.peak], dtype=torch.float64),
            "counts": torch.from_numpy(self.counts),
        }

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        self.limit, self.peak = state["range"].tolist()
        self.counts = state["counts"].numpy()

    def clipped(self, limit: float) -> float:
        """The squared error of clipping at `limit`, summed over the stream."""
        return float((self.counts * np.maximum(self.centres - limit, 0.0) ** 2).sum())

    @property
    def centres(self) -> np.ndarray:
        return (np.arange(BINS) + 0.5) * (self.limit / BINS)
