"""From a photograph to the model's input, as timm's evaluation transform does it: resize, centre crop, normalize.

The same record travels in the bundle's manifest, so whoever runs the model on the device knows what it wants.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from math import floor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vitc.errors import CalibrationError, InputError, missing, unknown

if TYPE_CHECKING:
    from PIL.Image import Image

FITS = ("crop", "stretch", "letterbox")
FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}  # PIL.Image.Resampling
_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True)
class Placement:
    """Where a picture lies in the model's input: a point (x, y) of the picture is at (x · scale[0] + offset[0],
    y · scale[1] + offset[1]) of the input, all in pixels."""

    scale: tuple[float, float]
    offset: tuple[float, float]


@dataclass(frozen=True)
class Preprocessing:
    """`size`: (height, width) of the input. `mean`, `std`: of each channel, for values in [0, 1]. `fit`: 'crop' resizes
    the picture to cover the input and takes the middle, 'stretch' gives up its proportions, 'letterbox' keeps them and
    fills up at the right and below with the mean. `crop`: share of the resized image's side that the other two keep.
    `interpolation`: nearest, lanczos, bilinear or bicubic. `rescale`: what a pixel of 0 … 255 is multiplied by first.
    """

    size: tuple[int, int]
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    crop: float = 1.0
    interpolation: str = "bicubic"
    fit: str = "crop"
    rescale: float = 1 / 255

    def __post_init__(self) -> None:
        if self.interpolation not in FILTERS:
            raise InputError(f"unknown interpolation {self.interpolation!r}; known: {', '.join(FILTERS)}")
        if self.fit not in FITS:
            raise InputError(unknown("fit", self.fit, FITS))
        if not 0.0 < self.crop <= 1.0:
            raise InputError(f"crop is a share in (0, 1], got {self.crop}")
        if self.crop != 1.0 and self.fit == "letterbox":
            raise InputError(f"fit='letterbox' shows all of a picture, got crop={self.crop}")
        if len(self.size) != 2 or min(self.size) < 1:
            raise InputError(f"size is (height, width) in pixels, got {self.size}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0 or self.rescale <= 0:
            raise InputError(
                "mean and std are three numbers, std and rescale greater than 0; got "
                f"mean {self.mean}, std {self.std}, rescale {self.rescale}"
            )

    def __call__(self, image: Image) -> np.ndarray[Any, np.dtype[np.float32]]:
        """[3, H, W] float32 of a PIL image; greyscale and palette images become RGB first."""
        height, width = self.size
        rgb = as_rgb(image)
        resized, (left, top) = self._resized(rgb.width, rgb.height)
        rgb = rgb.resize(resized, FILTERS[self.interpolation])
        if self.fit != "letterbox":
            rgb = rgb.crop((left, top, left + width, top + height))
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        scaled = np.asarray(rgb, np.float32)
        scaled *= np.float32(self.rescale) / std
        scaled -= mean / std
        if scaled.shape[:2] != self.size:
            # What is left free is 0 after normalization, the mean.
            scaled = np.pad(scaled, ((0, height - scaled.shape[0]), (0, width - scaled.shape[1]), (0, 0)))
        return np.ascontiguousarray(scaled.transpose(2, 0, 1))

    def placement(self, width: int, height: int) -> Placement:
        """Where a picture of this size lies in the input."""
        resized, (left, top) = self._resized(width, height)
        return Placement((resized[0] / width, resized[1] / height), (-left, -top))

    def _resized(self, width: int, height: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """The (width, height) a picture is resized to, and the (left, top) of what the input takes of it."""
        rows, columns = self.size
        if self.fit == "letterbox":
            factor = min(rows / height, columns / width)
            inside = (min(columns, max(1, round(width * factor))), min(rows, max(1, round(height * factor))))
            return inside, (0, 0)
        if self.fit == "stretch":
            resized = max(columns, floor(columns / self.crop)), max(rows, floor(rows / self.crop))
        else:
            # timm.data.transforms_factory and torchvision's Resize: the shorter side becomes floor(size / crop), the
            # longer one is cut to whole pixels.
            factor = max(floor(rows / self.crop) / height, floor(columns / self.crop) / width)
            resized = max(columns, int(width * factor + 1e-9)), max(rows, int(height * factor + 1e-9))
        return resized, (round((resized[0] - columns) / 2), round((resized[1] - rows) / 2))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for the manifest."""
        return {
            **asdict(self),
            "size": list(self.size),
            "mean": list(self.mean),
            "std": list(self.std),
            "layout": "NCHW, RGB",
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Preprocessing:
        """What `to_dict` gave, of this vitc or an older one. InputError for anything else."""
        names = {f.name for f in fields(cls)}
        foreign = sorted(set(plain) - names - {"layout"})
        if foreign or not {"size", "mean", "std"} <= set(plain):
            raise InputError(f"a preprocessing has size, mean, std and perhaps {sorted(names)}; got {sorted(plain)}")
        if plain.get("layout", "NCHW, RGB") != "NCHW, RGB":
            raise InputError(f"a preprocessing's layout is 'NCHW, RGB', got {plain['layout']!r}")
        try:
            values = {
                "size": tuple(int(v) for v in plain["size"]),
                **{key: tuple(float(v) for v in plain[key]) for key in ("mean", "std")},
                **{key: float(plain[key]) for key in ("crop", "rescale") if key in plain},
                **{key: plain[key] for key in ("interpolation", "fit") if key in plain},
            }
        except (TypeError, ValueError) as error:
            raise InputError(f"a preprocessing's size, mean, std, crop and rescale are numbers: {error}") from error
        return cls(**values)


def as_rgb(image: Image) -> Image:
    """Three channels of eight bits. Pillow's own conversion cuts 16 bits off at white: here they are scaled.

    Raises InputError for floating-point pixels, whose range nothing states.
    """
    if image.mode == "F":
        raise InputError("an image of floating-point pixels says nothing of its range; save it with 8 or 16 bits")
    if image.mode == "I" or image.mode.startswith("I;16"):
        from PIL import Image as pil

        deep = np.asarray(image)
        if deep.size and (deep.min() < 0 or deep.max() > 65535):
            raise InputError(f"an image's pixels go from {deep.min()} to {deep.max()}; of 16 bits they end at 65535")
        image = pil.fromarray((deep / 257 + 0.5).astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")


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
        except (UnidentifiedImageError, InputError, OSError, SyntaxError, ValueError) as error:
            raise CalibrationError(
                f"calibration image {str(path)!r} cannot be read: {error}; remove or replace it"
            ) from error
