"""From a photograph to the model's input, as timm's evaluation transform does it: resize, centre crop, normalize.

The same record travels in the bundle's manifest, so whoever runs the model on the device knows what it wants.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import floor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vitc.errors import CalibrationError, InputError, missing

if TYPE_CHECKING:
    from PIL.Image import Image

FILTERS = {"nearest": 0, "bilinear": 2, "bicubic": 3}  # PIL.Image.Resampling
_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True)
class Preprocessing:
    """`size`: (height, width) of the input. `mean`, `std`: of each channel, for values in [0, 1]. `crop`: share of the
    resized image's side that the centre crop keeps. `interpolation`: nearest, bilinear or bicubic.
    """

    size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop: float = 1.0
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        if self.interpolation not in FILTERS:
            raise InputError(f"unknown interpolation {self.interpolation!r}; known: {', '.join(FILTERS)}")
        if not 0.0 < self.crop <= 1.0:
            raise InputError(f"crop is a share in (0, 1], got {self.crop}")

    def __call__(self, image: Image) -> np.ndarray[Any, np.dtype[np.float32]]:
        """[3, H, W] float32 of a PIL image; greyscale and palette images become RGB first."""
        height, width = self.size
        rgb = image.convert("RGB")
        # timm.data.transforms_factory and torchvision's Resize: the shorter side becomes floor(size / crop), the longer
        # one is cut to whole pixels, then the centre is taken.
        factor = max(floor(height / self.crop) / rgb.height, floor(width / self.crop) / rgb.width)
        resized = (max(width, int(rgb.width * factor + 1e-9)), max(height, int(rgb.height * factor + 1e-9)))
        left, top = round((resized[0] - width) / 2), round((resized[1] - height) / 2)
        cut = rgb.resize(resized, FILTERS[self.interpolation]).crop((left, top, left + width, top + height))
        scaled = (np.asarray(cut, np.float32) / 255 - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return np.ascontiguousarray(scaled.transpose(2, 0, 1))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for the manifest."""
        return {
            **asdict(self),
            "size": list(self.size),
            "mean": list(self.mean),
            "std": list(self.std),
            "layout": "NCHW, RGB",
        }


@dataclass(frozen=True)
class ImageFolder:
    """The images in a folder, sorted by name, as a calibration stream: batches [≤ batch_size, 3, H, W] float32.

    `limit`: at most so many images. Iterating raises CalibrationError for a folder without images and, naming the file,
    for one that cannot be read; MissingDependencyError without Pillow.
    """

    folder: Path
    preprocessing: Preprocessing
    limit: int = 512
    batch_size: int = 8

    def __iter__(self) -> Iterator[np.ndarray[Any, np.dtype[np.float32]]]:
        files = self.files()
        for start in range(0, len(files), self.batch_size):
            yield np.stack([self._read(path) for path in files[start : start + self.batch_size]])

    def files(self) -> list[Path]:
        """The files that will be read, in order."""
        if not Path(self.folder).is_dir():
            raise CalibrationError(f"there is no folder of images {str(self.folder)!r}")
        found = sorted(p for p in Path(self.folder).rglob("*") if p.suffix.lower() in _SUFFIXES)
        if not found:
            raise CalibrationError(f"no images in {str(self.folder)!r}; vitc reads {', '.join(sorted(_SUFFIXES))}")
        return found[: self.limit]

    def _read(self, path: Path) -> np.ndarray[Any, np.dtype[np.float32]]:
        try:
            from PIL import Image, UnidentifiedImageError
        except ImportError as error:
            raise missing("pillow", "reading images", "zoo") from error
        try:
            with Image.open(path) as image:
                return self.preprocessing(image)
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            raise CalibrationError(
                f"calibration image {str(path)!r} cannot be read: {error}; remove or replace it"
            ) from error
