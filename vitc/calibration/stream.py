"""The calibration stream: batches of the user's inputs, checked as they come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from vitc.calibration.journal import CalibrationJournal
from vitc.errors import CalibrationError, VitcError


@dataclass(frozen=True)
class CalibrationStream:
    """Batches for calibration, checked as they come.

    `batches`: a tensor or array of images (cut into batches of `batch_size`), or an iterable of tensors, arrays, or
    tuples and dicts of them (a DataLoader's (image, label) pair counts as the image).
    `shapes`: the model's inputs without the batch dimension.
    `fixed`: the only batch size that the model takes, if there is one. Batches are cut to it as they are read; the last
    one is filled up with the first images.
    `journal`: where what calibration finds is kept, so that a killed one goes on.

    The stream is read several times. What can be read only once (a generator) is kept in memory as it is read.
    """

    batches: Any
    shapes: tuple[tuple[int, ...], ...]
    batch_size: int = 4
    fixed: int | None = None
    journal: CalibrationJournal | None = None
    _readings: list[int] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def was_read(self) -> bool:
        """Whether anybody has asked for a batch."""
        return bool(self._readings)

    def __post_init__(self) -> None:
        object.__setattr__(self, "batches", replayable(self.batches))

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        batches = (inputs for inputs, _ in self._checked())
        return batches if self.fixed is None else _recut(batches, self.fixed)

    def labelled(self) -> Iterator[tuple[tuple[torch.Tensor, ...], Any]]:
        """Each batch's inputs with what follows them in it (the labels), or None; not cut, for labels may be
        anything."""
        for i, (inputs, labels) in enumerate(self._checked()):
            if self.fixed is not None and inputs[0].shape[0] != self.fixed:
                raise CalibrationError(
                    f"labelled batch {i} has {inputs[0].shape[0]} images and the model takes {self.fixed}, its"
                    f" example's number (batch=None); give batches of {self.fixed}, or batch=vitc.BatchRange()"
                )
            yield inputs, labels

    def _checked(self) -> Iterator[tuple[tuple[torch.Tensor, ...], Any]]:
        self._readings.append(1)
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
            raise CalibrationError(
                f"calibration batch {index} has {len(items)} inputs, the model takes {len(self.shapes)}"
            )
        tensors = []
        for item, shape in zip(items, self.shapes, strict=True):
            if not isinstance(item, (torch.Tensor, np.ndarray)):
                raise CalibrationError(f"calibration batch {index} is a {type(item).__name__}, not a tensor or array")
            tensor = torch.as_tensor(item)
            if tuple(tensor.shape) == shape:
                raise CalibrationError(
                    f"calibration batch {index} is one image of shape {list(shape)}; add the batch dimension with"
                    " image[None]"
                )
            if tuple(tensor.shape[1:]) != shape or tensor.shape[0] == 0:
                raise CalibrationError(
                    f"calibration batch {index} has shape {list(tensor.shape)}, the model takes [batch, "
                    f"{', '.join(map(str, shape))}]; resize the images, and convert greyscale to RGB"
                )
            if not tensor.is_floating_point():
                raise CalibrationError(
                    f"calibration batch {index} has dtype {tensor.dtype}; normalize the images as for inference, to"
                    " float32"
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
                f"the calibration stream raised {type(error).__name__} at batch {count}: {error}; the {count} batches"
                " before it were read without error"
            ) from error
        yield item
        count += 1


def _check_finite(tensor: torch.Tensor, index: int) -> None:
    bad = int((~torch.isfinite(tensor)).sum())
    if bad:
        raise CalibrationError(
            f"calibration batch {index} holds {bad} NaN or inf of {tensor.numel()} values; check the preprocessing"
        )
