"""Calibrators: from a histogram of magnitudes to the largest magnitude that INT8 represents."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from vitc.passes.quantization.observe.histogram import BINS, MagnitudeHistogram


def minmax(histogram: MagnitudeHistogram) -> float:
    """The largest magnitude seen."""
    return histogram.peak


def percentile(histogram: MagnitudeHistogram, share: float = 0.9999) -> float:
    """The magnitude below which `share` of the values lie."""
    cumulated = np.cumsum(histogram.counts)
    index = int(np.searchsorted(cumulated, share * cumulated[-1]))
    return float(min((index + 1) * histogram.limit / BINS, histogram.peak))


def mse(histogram: MagnitudeHistogram) -> float:
    """The clipping threshold of least expected squared error: rounding Δ²/12 inside, (|x| − t)² beyond (as in
    Banner et al., arXiv 1810.05723), with the histogram as the density."""
    centres, counts = histogram.centres, histogram.counts.astype(np.float64)
    best, best_error = histogram.peak, np.inf
    for t in np.linspace(0.1, 1.0, 181) * histogram.peak:
        step = t / 127
        rounded = np.minimum(np.round(centres / step), 127) * step
        # Bins finer than a step: the exact rounding error; coarser: its uniform expectation.
        error = (counts * (centres - rounded) ** 2).sum()
        if histogram.limit / BINS > step:
            error += counts[centres <= t].sum() * step**2 / 12
        if error < best_error:
            best, best_error = float(t), float(error)
    return best


def entropy(histogram: MagnitudeHistogram) -> float:
    """The threshold of least Kullback–Leibler divergence between the clipped and the 128-level distribution
    (Migacz, 8-bit Inference with TensorRT, GTC 2017)."""
    counts = histogram.counts.astype(np.float64)
    best, best_divergence = histogram.peak, np.inf
    for stop in range(128, BINS + 1, 16):
        kept = counts[:stop]
        reference = kept.copy()
        reference[-1] += counts[stop:].sum()
        edges = np.linspace(0, stop, 129).astype(int)
        widths, occupied = np.diff(edges), kept > 0
        filled = np.add.reduceat(occupied, edges[:-1], dtype=np.float64)
        level = np.add.reduceat(kept, edges[:-1]) / np.maximum(filled, 1)
        quantized = np.repeat(level, widths) * occupied
        if quantized.sum() == 0:
            continue
        p, q = reference / reference.sum(), quantized / quantized.sum()
        mask = p > 0
        divergence = float((p[mask] * np.log(p[mask] / np.maximum(q[mask], 1e-12))).sum())
        if divergence < best_divergence:
            best, best_divergence = min(stop * histogram.limit / BINS, histogram.peak), divergence
    return float(best)


CALIBRATORS: Mapping[str, Callable[[MagnitudeHistogram], float]] = {
    "minmax": minmax,
    "percentile": percentile,
    "mse": mse,
    "entropy": entropy,
}
