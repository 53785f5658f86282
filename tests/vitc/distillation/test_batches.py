"""The forms data may have, and a stream that is a function of its place."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

from vitc.distillation.batches import loader_of, own_randomness, split, stream
from vitc.errors import InputError

IMAGES, LABELS = torch.randn(10, 3), torch.arange(10)


def _take(loader: Any, start: int, count: int) -> list[torch.Tensor]:
    batches = stream(loader, start, seed=5)
    return [next(batches).args[0] for _ in range(count)]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stream_started_in_the_middle_goes_on(workers: int) -> None:
    class Noisy(torch.utils.data.Dataset[torch.Tensor]):
        def __len__(self) -> int:
            return 10

        def __getitem__(self, index: int) -> torch.Tensor:
            return IMAGES[index] + torch.rand(()) + float(np.random.rand()) + random.random()

    loader = torch.utils.data.DataLoader(Noisy(), batch_size=4, shuffle=True, num_workers=workers)
    whole = _take(loader, 0, 8)
    assert not torch.equal(whole[0], whole[3]), "each epoch has its own order"
    for start in (1, 3, 5):
        for got, want in zip(_take(loader, start, 3), whole[start : start + 3], strict=True):
            assert torch.equal(got, want)


def test_tensors_are_shuffled_and_cut() -> None:
    loader = loader_of((IMAGES, LABELS), 4)
    first = [next(batches := stream(loader, 0, 1)), next(batches), next(batches)]
    assert len(loader) == 2
    assert all(torch.equal(IMAGES[b.labels], b.args[0]) for b in first)
    assert (
        sorted(torch.cat([first[0].labels, first[1].labels]).tolist())
        != first[0].labels.tolist() + first[1].labels.tolist()
    )


def test_a_batch_larger_than_the_data_is_cut() -> None:
    assert len(loader_of((IMAGES, LABELS), 64)) == 1


def test_forms_of_a_batch() -> None:
    assert split(IMAGES).labels is None
    assert split([IMAGES, LABELS]).labels is LABELS
    batch = split({"pixel_values": IMAGES, "labels": LABELS})
    assert batch.kwargs == {"pixel_values": IMAGES}
    assert batch.labels is LABELS


def test_the_caller_s_randomness_is_given_back() -> None:
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1]
    with own_randomness():
        next(stream(loader_of(IMAGES, 2), 0, 3))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])


class _Endless:
    def __iter__(self) -> Any:
        return iter([IMAGES])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "data has no batches"),
        (torch.empty(0, 3), "data has no batches"),
        ((IMAGES, LABELS[:4]), "data has 10 inputs and 4 labels"),
        (7, r"data must be tensors \(inputs, labels\) or an iterable of batches, got int"),
        ("images", "got str"),
        (iter([IMAGES]), "data is an iterator, which can be read only once"),
        (_Endless(), "data of type _Endless has no length; give it a __len__"),
    ],
)
def test_data_that_cannot_serve(data: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        loader_of(data, 4)


@pytest.mark.parametrize(
    ("raw", "message"),
    [((IMAGES, LABELS, LABELS), "tuple of 3"), (3.0, "a batch is a float"), (("a", 1), "tuple of 2")],
)
def test_batches_that_cannot_serve(raw: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        split(raw)


def test_a_wrong_length_is_noticed() -> None:
    class Short(list[torch.Tensor]):
        def __len__(self) -> int:
            return 3

    batches = stream(Short([IMAGES]), 0, 0)
    next(batches)
    with pytest.raises(InputError, match="data gave 1 batches, its length says 3"):
        next(batches)
