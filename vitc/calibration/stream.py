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
    `shapes`: the model's inputs without the batch dimension. `names` and `dtypes`: theirs, where they are known: a
        dict's tensors are taken by name, what else it holds are labels, and integers go where the model takes them.
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
    names: tuple[str, ...] = ()
    dtypes: tuple[torch.dtype, ...] = ()
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
        first: list[torch.Tensor] = []
        varies = False
        for i, raw in enumerate(_named_errors(self._raw())):
            inputs = self._inputs(raw, i)
            for tensor in inputs:
                _check_finite(tensor, i)
            first = first or [tensor.flatten()[0] for tensor in inputs]
            varies = varies or any(bool((t != f).any()) for t, f in zip(inputs, first, strict=True))
            count += 1
            yield inputs, self._labels(raw)
        if count == 0:
            raise CalibrationError("the calibration stream is empty; pass at least one batch of representative images")
        if not varies:
            raise CalibrationError(
                f"all {count} calibration batches hold the one value {float(first[0]):g}; pass real images"
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
            raw = self._by_name(raw, index)
        items = list(raw)[: len(self.shapes)] if isinstance(raw, (tuple, list)) else [raw]
        if len(items) < len(self.shapes):
            raise CalibrationError(
                f"calibration batch {index} has {len(items)} inputs, the model takes {len(self.shapes)}"
            )
        tensors = []
        dtypes = self.dtypes or (torch.float32,) * len(self.shapes)
        for item, shape, dtype in zip(items, self.shapes, dtypes, strict=True):
            if not isinstance(item, (torch.Tensor, np.ndarray)):
                raise CalibrationError(f"calibration batch {index} is a {type(item).__name__}, not a tensor or array")
            tensor = torch.as_tensor(item)
            if tuple(tensor.shape) == shape and shape:
                raise CalibrationError(
                    f"calibration batch {index} is one image of shape {list(shape)}; add the batch dimension with"
                    " image[None]"
                )
            if tuple(tensor.shape[1:]) != shape or tensor.shape[0] == 0:
                raise CalibrationError(
                    f"calibration batch {index} has shape {list(tensor.shape)}, the model takes [batch, "
                    f"{', '.join(map(str, shape))}]; resize the images, and convert greyscale to RGB"
                )
            if tensor.is_floating_point() != dtype.is_floating_point:
                wanted = str(dtype).removeprefix("torch.")
                remedy = f"normalize the images as for inference, to {wanted}"
                if not dtype.is_floating_point:
                    remedy = f"the model takes {wanted} here"
                raise CalibrationError(f"calibration batch {index} has dtype {tensor.dtype}; {remedy}")
            tensors.append(tensor.to(dtype))
        return tuple(tensors)

    def _by_name(self, raw: Mapping[Any, Any], index: int) -> tuple[Any, ...]:
        """The model's inputs out of a dict, in the model's order."""
        if not self.names:
            return tuple(raw.values())
        missing = [name for name in self.names if name not in raw]
        if missing:
            raise CalibrationError(
                f"calibration batch {index} is a dict of {', '.join(map(str, raw))}, without {', '.join(missing)}; the "
                f"model's inputs are called {', '.join(self.names)}"
            )
        return tuple(raw[name] for name in self.names)

    def _labels(self, raw: Any) -> Any:
        """What stands in a batch behind the inputs, or beside them in a dict."""
        if isinstance(raw, Mapping):
            names = self.names or tuple(raw)[: len(self.shapes)]
            others = [value for name, value in raw.items() if name not in names]
            return others[0] if others else None
        items = list(raw) if isinstance(raw, (tuple, list)) else []
        return items[len(self.shapes)] if len(items) > len(self.shapes) else None


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
