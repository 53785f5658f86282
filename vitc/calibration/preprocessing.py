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
from vitc.files.plain import open_plain

if TYPE_CHECKING:
    from PIL.Image import Image

FITS = ("crop", "stretch", "letterbox")
FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}  # PIL.Image.Resampling
# A picture of 8192 × 8192; decoded it takes 256 MB.
MAX_PIXELS = 1 << 26
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
        if resized[0] * resized[1] <= MAX_PIXELS // 4:
            rgb = rgb.resize(resized, FILTERS[self.interpolation])
            if self.fit != "letterbox":
                rgb = rgb.crop((left, top, left + width, top + height))
        else:
            rgb = self._resized_part(rgb, resized, left, top)
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        scaled = np.asarray(rgb, np.float32)
        scaled *= np.float32(self.rescale) / std
        scaled -= mean / std
        if scaled.shape[:2] != self.size:
            # What is left free is 0 after normalization, the mean.
            scaled = np.pad(scaled, ((0, height - scaled.shape[0]), (0, width - scaled.shape[1]), (0, 0)))
        return np.ascontiguousarray(scaled.transpose(2, 0, 1))

    def _resized_part(self, rgb: Image, resized: tuple[int, int], left: int, top: int) -> Image:
        """As resizing and then cutting, a step of rounding or two apart; of a picture of 1 × 60,000 what is cut out of
        would take some GB."""
        height, width = self.size
        across, down = rgb.width / resized[0], rgb.height / resized[1]
        right, bottom = min((left + width) * across, rgb.width), min((top + height) * down, rgb.height)
        return rgb.resize((width, height), FILTERS[self.interpolation], (left * across, top * down, right, bottom))

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

    Raises InputError for pixels whose range nothing states (floating-point, 32 bits), and for more than `MAX_PIXELS`.
    """
    if image.width * image.height > MAX_PIXELS:
        raise InputError(f"an image of {image.width} × {image.height} pixels; at most {MAX_PIXELS} are read: shrink it")
    if image.mode == "F":
        raise InputError("an image of floating-point pixels says nothing of its range; save it with 8 or 16 bits")
    # Older Pillows give a PNG's and a PPM's 16 bits as 32.
    if image.mode == "I" and image.format not in ("PNG", "PPM"):
        raise InputError("an image of 32-bit pixels says nothing of its range; save it with 8 or 16 bits")
    if image.mode == "I" or image.mode.startswith("I;16"):
        from PIL import Image as pil

        deep = np.asarray(image)
        image = pil.fromarray(((deep.astype(np.uint32) + 128) // 257).astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")


# EXIF's orientation -> what turns the stored picture upright, as Pillow's Transpose counts.
_ORIENTATION, _UPRIGHT = 0x0112, {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}


def upright(image: Image) -> Image:
    """The picture as a viewer shows it: a camera that was held upright says so in EXIF, and stores it lying."""
    from PIL.Image import Transpose

    turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    return image if turn is None else image.transpose(Transpose(turn))


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
            from PIL import Image
        except ImportError as error:
            raise missing("pillow", "reading images", "zoo") from error
        try:
            with open_plain(path) as file, Image.open(file) as image:
                small = image.width * image.height <= MAX_PIXELS
                return self.preprocessing(upright(image) if small else image)  # which refuses it
        except Exception as error:  # a decoder raises anything for a damaged file
            raise CalibrationError(
                f"calibration image {str(path)!r} cannot be read: {error}; remove or replace it"
            ) from error
