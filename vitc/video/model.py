"""A loaded bundle that takes pictures: prepare, run, read the outputs, each a step of its own so that they overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from vitc.calibration.preprocessing import Preprocessing
from vitc.errors import InputError
from vitc.runtime.runner import Runner
from vitc.task import Classification, outputs_of
from vitc.video.boxes import Answer, located, ranked

Pixels: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]
Picture: TypeAlias = Pixels | Image.Image


class PictureModel:
    """Pictures in, labels or boxes out. `batch`: the smallest and the largest number of pictures of one run."""

    def __init__(self, runner: Runner, threshold: float | None = None, top: int = 5) -> None:
        """`threshold`: of detections, in place of the task's. `top`: labels per picture of a classifier.

        Raises InputError for a bundle that does not say what its outputs mean, or how a picture becomes its input.
        """
        manifest = runner.bundle.manifest
        if manifest.task is None:
            raise InputError(
                f"the bundle {runner.bundle.path} does not say what its outputs mean; compile it with "
                "task=vitc.Classification(labels=…) or task=vitc.Detection(…), or run it on arrays with --input"
            )
        if len(manifest.inputs) != 1 or len(manifest.inputs[0].shape) != 4:
            shapes = ", ".join(f"{info.name} {list(info.shape)}" for info in manifest.inputs)
            raise InputError(f"a picture is one input of four dimensions; the model takes {shapes}")
        self.runner = runner
        self.task = manifest.task
        self._input = manifest.inputs[0]
        if self._input.preprocessing is None:
            raise InputError(
                f"the bundle {runner.bundle.path} does not say how a picture becomes its input; compile it with "
                "task=vitc.Detection(…, preprocessing=vitc.Preprocessing(size=(H, W), mean=…, std=…))"
            )
        self.preprocessing = Preprocessing.from_dict(self._input.preprocessing)
        batch, *shape = self._input.shape
        if tuple(shape) != (3, *self.preprocessing.size):
            raise InputError(
                f"the preprocessing makes [3, {', '.join(map(str, self.preprocessing.size))}], the model takes {shape}"
            )
        dim = manifest.dims.get(batch) if isinstance(batch, str) else None
        self.batch = (dim.min, dim.max) if dim else (int(batch), int(batch))
        self.threshold = getattr(self.task, "threshold", 0.0) if threshold is None else threshold
        if not 0.0 <= self.threshold <= 1.0:
            raise InputError(f"threshold is a score from 0 to 1, got {threshold}")
        self.top = top
        self._outputs = outputs_of(self.task, manifest.structure)

    def __call__(self, pictures: Sequence[Picture]) -> list[Answer]:
        """One answer per picture, however many there are."""
        answers: list[Answer] = []
        for start in range(0, len(pictures), self.batch[1]):
            part = pictures[start : start + self.batch[1]]
            outputs = self.run(self.prepare(part))
            answers += self.read(outputs, [size_of(picture) for picture in part])
        return answers

    def prepare(self, pictures: Sequence[Picture]) -> np.ndarray[Any, Any]:
        """Pictures, at most `batch[1]`, to the model's input; the last one is repeated up to `batch[0]`."""
        rows = [self.preprocessing(p if isinstance(p, Image.Image) else Image.fromarray(p)) for p in pictures]
        rows += rows[-1:] * (self.batch[0] - len(rows))
        return np.stack(rows).astype(self._input.dtype, copy=False)

    def run(self, inputs: np.ndarray[Any, Any]) -> dict[str, Any]:
        """The raw outputs, by the task's names."""
        outputs = self.runner.run(inputs)
        return {name: outputs[output] for name, output in self._outputs.items()}

    def read(
        self, outputs: Mapping[str, Any], sizes: Sequence[tuple[int, int]], threshold: float | None = None
    ) -> list[Answer]:
        """The answers of the first `len(sizes)` pictures; `sizes` are (width, height)."""
        outputs = {name: array[: len(sizes)] for name, array in outputs.items()}
        if isinstance(self.task, Classification):
            return list(ranked(self.task, outputs["logits"], self.top))
        placements = [self.preprocessing.placement(*size) for size in sizes]
        least = self.threshold if threshold is None else threshold
        return list(located(self.task, outputs, list(sizes), placements, self.preprocessing.size, least))


def size_of(picture: Picture) -> tuple[int, int]:
    """(width, height) in pixels."""
    return picture.size if isinstance(picture, Image.Image) else (picture.shape[1], picture.shape[0])
