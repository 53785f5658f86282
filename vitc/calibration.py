"""Calibration: a stream of batches in, one histogram of magnitudes a tensor out, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vitc.calibration_journal import CalibrationJournal
from vitc.errors import CalibrationError, VitcError
from vitc.preprocessing import ImageFolder

if TYPE_CHECKING:
    from vitc.graph.program import Program

BINS = 2048


@dataclass(frozen=True)
class CalibrationStream:
    """Batches for calibration, checked as they come.

    `batches`: a tensor or array of images (cut into batches of `batch_size`), or an iterable of tensors, arrays, or
    tuples and dicts of them (a DataLoader's (image, label) pair counts as the image).
    `shapes`: the model's inputs without the batch dimension.
    `fixed`: the only batch size that the model takes, if there is one. Batches are cut to it as they are read; the last one is
    filled up with the first images.
    `journal`: where what calibration finds is kept, so that a killed one goes on.

    The stream is read several times. What can be read only once (a generator) is kept in memory as it is read.
    """

    batches: Any
    shapes: tuple[tuple[int, ...], ...]
    batch_size: int = 4
    fixed: int | None = None
    journal: CalibrationJournal | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "batches", replayable(self.batches))

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        batches = (inputs for inputs, _ in self._checked())
        return batches if self.fixed is None else _recut(batches, self.fixed)

    def labelled(self) -> Iterator[tuple[tuple[torch.Tensor, ...], Any]]:
        """Each batch's inputs with what follows them in it (the labels), or None; not cut, for labels may be anything."""
        for i, (inputs, labels) in enumerate(self._checked()):
            if self.fixed is not None and inputs[0].shape[0] != self.fixed:
                raise CalibrationError(
                    f"labelled batch {i} has {inputs[0].shape[0]} images and the model takes {self.fixed}, its example's "
                    f"number (batch=None); give batches of {self.fixed}, or batch=vitc.BatchRange()"
                )
            yield inputs, labels

    def _checked(self) -> Iterator[tuple[tuple[torch.Tensor, ...], Any]]:
        count = 0
        first: torch.Tensor | None = None
        varies = False
        for i, raw in enumerate(_named_errors(self._raw())):
            inputs = self._inputs(raw, i)
            for tensor in inputs:
                _check_finite(tensor, i)
            if first is None:
                first = inputs[0].flatten()[0]
            varies = varies or bool((inputs[0] != first).any())
            count += 1
            yield inputs, _labels(raw, len(self.shapes))
        if count == 0:
            raise CalibrationError("the calibration stream is empty; pass at least one batch of representative images")
        if not varies:
            raise CalibrationError(
                f"all {count} calibration batches hold the one value {float(first):g}; pass real images"  # type: ignore[arg-type]
            )

    def _raw(self) -> Iterable[Any]:
        if isinstance(self.batches, (torch.Tensor, np.ndarray)):
            return torch.as_tensor(self.batches).split(self.batch_size)  # type: ignore[no-any-return]
        if isinstance(self.batches, Iterable) and not isinstance(self.batches, (str, bytes)):
            return self.batches
        raise CalibrationError(
            f"calibration must be a tensor, an array or an iterable of batches, got {type(self.batches).__name__}"
        )

    def _inputs(self, raw: Any, index: int) -> tuple[torch.Tensor, ...]:
        if isinstance(raw, Mapping):
            raw = tuple(raw.values())
        items = list(raw)[: len(self.shapes)] if isinstance(raw, (tuple, list)) else [raw]
        if len(items) < len(self.shapes):
            raise CalibrationError(f"calibration batch {index} has {len(items)} inputs, the model takes {len(self.shapes)}")
        tensors = []
        for item, shape in zip(items, self.shapes, strict=True):
            if not isinstance(item, (torch.Tensor, np.ndarray)):
                raise CalibrationError(f"calibration batch {index} is a {type(item).__name__}, not a tensor or array")
            tensor = torch.as_tensor(item)
            if tuple(tensor.shape) == shape:
                raise CalibrationError(
                    f"calibration batch {index} is one image of shape {list(shape)}; add the batch dimension with image[None]"
                )
            if tuple(tensor.shape[1:]) != shape or tensor.shape[0] == 0:
                raise CalibrationError(
                    f"calibration batch {index} has shape {list(tensor.shape)}, the model takes [batch, "
                    f"{', '.join(map(str, shape))}]; resize the images, and convert greyscale to RGB"
                )
            if not tensor.is_floating_point():
                raise CalibrationError(
                    f"calibration batch {index} has dtype {tensor.dtype}; normalise the images as for inference, to float32"
                )
            tensors.append(tensor.to(torch.float32))
        return tuple(tensors)


def _recut(batches: Iterable[tuple[torch.Tensor, ...]], size: int) -> Iterator[tuple[torch.Tensor, ...]]:
    """Batches of `size`, the last one filled up with the first images."""
    left: tuple[torch.Tensor, ...] = ()
    first: tuple[torch.Tensor, ...] = ()
    for batch in batches:
        left = tuple(map(torch.cat, zip(left, batch, strict=True))) if left else batch
        first = first or left
        while left[0].shape[0] >= size:
            yield tuple(t[:size] for t in left)
            left = tuple(t[size:] for t in left)
    missing = -left[0].shape[0] % size
    if missing:
        rounds = -(-missing // first[0].shape[0])
        yield tuple(torch.cat([t, *[f] * rounds])[:size] for t, f in zip(left, first, strict=True))


def _labels(raw: Any, inputs: int) -> Any:
    items = list(raw.values()) if isinstance(raw, Mapping) else list(raw) if isinstance(raw, (tuple, list)) else []
    return items[inputs] if len(items) > inputs else None


class _Replayable:
    """Makes an iterator iterable again: items are kept as they come."""

    def __init__(self, items: Iterator[Any]) -> None:
        self._items = items
        self._kept: list[Any] = []

    def __iter__(self) -> Iterator[Any]:
        yield from self._kept
        for item in self._items:
            self._kept.append(item)
            yield item


def replayable(batches: Any) -> Any:
    """What can be read again and again: an iterator's items are kept, everything else is as it was."""
    return _Replayable(batches) if isinstance(batches, Iterator) else batches


def _named_errors(items: Iterable[Any]) -> Iterator[Any]:
    """The items; what the user's own stream raises is chained to an error that says at which batch."""
    iterator, count = iter(items), 0
    while True:
        try:
            item = next(iterator)
        except StopIteration:
            return
        except VitcError:
            raise
        except Exception as error:
            raise CalibrationError(
                f"the calibration stream raised {type(error).__name__} at batch {count}: {error}; the {count} batches before "
                "it were read without error"
            ) from error
        yield item
        count += 1


def calibration_stream(data: Any, program: Program, resume: str | Path | None = None) -> CalibrationStream:
    """What the user gave as calibration data, as a stream for the program's inputs. `resume`: a folder for its journal.

    A path is a folder of images, preprocessed as the model's config says, or an .npy file of preprocessed inputs.
    Raises CalibrationError for a path that is neither, and for images without a known preprocessing.
    """
    shapes = tuple(tuple(t.shape[1:]) for t in program.example_inputs)
    fixed = None if program.batch is not None else program.example_inputs[0].shape[0]
    journal = None if resume is None else CalibrationJournal(resume)
    if not isinstance(data, (str, Path)):
        return CalibrationStream(data, shapes, fixed=fixed, journal=journal)
    path = Path(data)
    if path.suffix == ".npy" and path.is_file():
        try:
            return CalibrationStream(np.load(path, allow_pickle=False), shapes, fixed=fixed, journal=journal)
        except (ValueError, EOFError) as error:
            raise CalibrationError(f"{path} is no readable .npy file ({error}); save one with numpy.save(path, images)") from error
    if not path.is_dir():
        raise CalibrationError(f"there is no folder of images and no .npy file {str(path)!r}; save one with numpy.save(path, images)")
    if program.preprocessing is None:
        raise CalibrationError(
            f"the model's config does not say how the images in {str(path)!r} are to be preprocessed; pass "
            "calibration=vitc.ImageFolder(folder, vitc.Preprocessing(size, mean, std)), or preprocessed arrays"
        )
    return CalibrationStream(ImageFolder(path, program.preprocessing), shapes, fixed=fixed, journal=journal)


def _check_finite(tensor: torch.Tensor, index: int) -> None:
    bad = int((~torch.isfinite(tensor)).sum())
    if bad:
        raise CalibrationError(
            f"calibration batch {index} holds {bad} NaN or inf of {tensor.numel()} values; check the preprocessing"
        )


@dataclass
class MagnitudeHistogram:
    """A histogram of |x| over [0, limit] with a fixed number of bins. When a larger value comes, pairs of bins merge
    and the limit doubles, so memory stays the same however long the stream is."""

    limit: float = 0.0
    peak: float = 0.0
    counts: np.ndarray = field(default_factory=lambda: np.zeros(BINS, dtype=np.int64))

    def update(self, tensor: torch.Tensor, images: int = 1) -> None:  # noqa: ARG002  an observer's signature
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
        quantised = np.repeat(level, widths) * occupied
        if quantised.sum() == 0:
            continue
        p, q = reference / reference.sum(), quantised / quantised.sum()
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
