"""The calibration stream: what it takes, and what it says about what it does not take."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from vitc.calibration.stream import CalibrationStream
from vitc.errors import CalibrationError

SHAPES = ((3, 4, 4),)


def _batches(count: int, then: Exception | None = None) -> Iterator[torch.Tensor]:
    for i in range(count):
        yield torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(i))
    if then is not None:
        raise then


def test_a_generator_is_read_as_often_as_needed() -> None:
    stream = CalibrationStream(_batches(3), SHAPES)
    first, second = ([t.clone() for (t,) in stream] for _ in range(2))
    assert len(first) == 3
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b)


def test_an_exception_of_the_users_stream_is_chained_and_placed() -> None:
    cause = OSError("image_0007.jpg is truncated")
    stream = CalibrationStream(_batches(2, cause), SHAPES)
    with pytest.raises(
        CalibrationError, match=r"raised OSError at batch 2: image_0007.jpg is truncated; the 2 batches"
    ) as caught:
        list(stream)
    assert caught.value.__cause__ is cause


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (torch.randn(3, 4, 4), r"batch 0 is one image of shape \[3, 4, 4\]; add the batch dimension"),
        (
            torch.randn(2, 1, 4, 4),
            r"shape \[2, 1, 4, 4\], the model takes \[batch, 3, 4, 4\]; resize the images, and convert greyscale",
        ),
        (torch.randn(2, 3, 5, 5), r"shape \[2, 3, 5, 5\], the model takes \[batch, 3, 4, 4\]"),
        ([torch.zeros(0, 3, 4, 4)], r"shape \[0, 3, 4, 4\]"),
        ([torch.randn(2, 3, 4, 4), torch.full((2, 3, 4, 4), torch.nan)], "batch 1 holds 96 NaN or inf of 96 values"),
        (np.zeros((2, 3, 4, 4), np.uint8), "dtype torch.uint8; normalize the images"),
        ([b"\xff\xd8\xff"], "batch 0 is a bytes, not a tensor or array"),
    ],
    ids=["no batch", "greyscale", "size", "empty batch", "nan later", "bytes of pixels", "undecoded"],
)
def test_refusals(batches: object, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        list(CalibrationStream(batches, SHAPES))


def test_one_image_is_enough_to_go_on() -> None:
    assert len(list(CalibrationStream(torch.randn(1, 3, 4, 4), SHAPES))) == 1


@pytest.mark.parametrize("sizes", [(1,), (2, 3), (4, 8), (7, 2, 1), (12,)])
def test_batches_of_any_size_are_cut_to_the_one_that_the_model_takes(sizes: tuple[int, ...]) -> None:
    images = torch.randn(sum(sizes), 3, 4, 4)
    cut = [batch for (batch,) in CalibrationStream(list(images.split(list(sizes))), SHAPES, fixed=4)]
    assert [len(batch) for batch in cut] == [4] * -(-len(images) // 4)
    together = torch.cat(cut)
    torch.testing.assert_close(together[: len(images)], images)
    for filler in together[len(images) :]:
        assert any(torch.equal(filler, image) for image in images)


def test_labelled_batches_are_not_cut() -> None:
    images, labels = torch.randn(5, 3, 4, 4), torch.arange(5)
    stream = CalibrationStream([(images, labels)], SHAPES, fixed=2)
    with pytest.raises(
        CalibrationError, match="labelled batch 0 has 5 images and the model takes 2, its example's number"
    ):
        list(stream.labelled())
