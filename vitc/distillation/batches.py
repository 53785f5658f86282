"""The data of a distillation: anything that can be read again and again, as an endless stream that can start anywhere.

Nothing random is ever saved: before each batch is drawn, and again before it is used, every generator is seeded with a
number made of the seed and the place in the run. So a run that was killed goes on exactly.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader, TensorDataset

from vitc.errors import InputError

_LABELS = ("labels", "label")


@dataclass(frozen=True)
class Batch:
    """Inputs as the models' forward takes them, and labels if there are any."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    labels: torch.Tensor | None

    def call(self, model: torch.nn.Module) -> Any:
        return model(*self.args, **self.kwargs)

    def to(self, device: torch.device) -> Batch:
        def move(tree: Any) -> Any:
            return pytree.tree_map(lambda t: t.to(device) if isinstance(t, torch.Tensor) else t, tree)

        return Batch(move(self.args), move(self.kwargs), move(self.labels))


def loader_of(data: Any, batch_size: int) -> Any:
    """Tensors become a shuffling DataLoader; loaders and other collections of batches stay what they are.

    data: a tensor of inputs, a pair (inputs, labels) of tensors, or an iterable of batches with a length: each a
    tensor, (inputs, labels), or a dict for forward with 'labels' beside it. Raises InputError for anything else, or for
    nothing.
    """
    if isinstance(data, torch.Tensor):
        data = (data,)
    if isinstance(data, (tuple, list)) and data and all(isinstance(t, torch.Tensor) for t in data) and len(data) <= 2:
        counts = [len(t) for t in data]
        if len(set(counts)) > 1:
            raise InputError(f"data has {counts[0]} inputs and {counts[1]} labels; both must be as many")
        size = min(batch_size, counts[0])
        own = torch.Generator()  # seeded at each epoch, so that one process and several draw the same order
        dataset = TensorDataset(*data)
        data = DataLoader(dataset, batch_size=size, shuffle=True, drop_last=True, generator=own) if size else ()
    if isinstance(data, (str, bytes)) or not hasattr(data, "__iter__"):
        raise InputError(f"data must be tensors (inputs, labels) or an iterable of batches, got {type(data).__name__}")
    if iter(data) is data:
        raise InputError(
            "data is an iterator, which can be read only once; pass a DataLoader, or a list of its batches"
        )
    try:
        count = len(data)
    except TypeError:
        raise InputError(
            f"data of type {type(data).__name__} has no length; give it a __len__, its batches in an epoch"
        ) from None
    if count == 0:
        raise InputError("data has no batches; pass at least one batch of inputs")
    return data


def split(raw: Any) -> Batch:
    """One batch as a loader gives it."""
    if isinstance(raw, torch.Tensor):
        return Batch((raw,), {}, None)
    if isinstance(raw, Mapping):
        labels = next((raw[name] for name in _LABELS if name in raw), None)
        return Batch((), {k: v for k, v in raw.items() if k not in _LABELS}, labels)
    if isinstance(raw, (tuple, list)) and 1 <= len(raw) <= 2:
        inputs, labels = raw[0], raw[1] if len(raw) == 2 else None
        if isinstance(inputs, torch.Tensor) and (labels is None or isinstance(labels, torch.Tensor)):
            return Batch((inputs,), {}, labels)
    kind = f"{type(raw).__name__} of {len(raw)}" if isinstance(raw, (tuple, list)) else type(raw).__name__
    raise InputError(f"a batch is a {kind}; it must be a tensor, (inputs, labels), or a dict with 'labels'")


def stream(loader: Any, start: int, seed: int, rank: int = 0, source: Any = None) -> Iterator[Batch]:
    """Batches without end, epoch after epoch, from the `start`-th on. A pure function of its arguments, as long as the
    loader draws its random numbers from torch, numpy or random. `source`: the user's loader, where `loader` is a
    process' share."""
    count = len(loader)
    epoch, skipped = divmod(start, count)
    while True:
        reseed(seed, "epoch", epoch)
        _begin_epoch((loader, source), epoch, place(seed, "order", epoch))
        batches = iter(loader)
        for i in range(count):
            reseed(seed, "batch", epoch, i, rank if i else 0)  # all processes draw the order of an epoch alike
            raw = next(batches, None)
            if raw is None:
                raise InputError(f"data gave {i} batches, its length says {count}; both must agree")
            if i >= skipped:
                yield split(raw)
        epoch, skipped = epoch + 1, 0


def _begin_epoch(loaders: tuple[Any, ...], epoch: int, seed: int) -> None:
    for source in (*loaders, *(getattr(loader, "sampler", None) for loader in loaders)):
        if isinstance(generator := getattr(source, "generator", None), torch.Generator):
            generator.manual_seed(seed)
        if hasattr(source, "set_epoch"):
            source.set_epoch(epoch)


def place(seed: int, *where: object) -> int:
    """A seed for a place in the run, below 2³²."""
    return int.from_bytes(hashlib.sha256(repr((seed, where)).encode()).digest()[:4], "little")


def reseed(seed: int, *where: object) -> None:
    """Seeds torch, numpy and random for a place in the run."""
    number = place(seed, *where)
    torch.manual_seed(number)
    np.random.seed(number)
    random.seed(number)


@contextmanager
def own_randomness() -> Iterator[None]:
    """Gives the caller's random state back at the end."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
