"""Photographs from disk, as a person sees them: turned as the camera was held, three channels of eight bits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError

from vitc.calibration.preprocessing import as_rgb
from vitc.errors import InputError
from vitc.runtime.runner import Runner
from vitc.video.model import PictureModel
from vitc.video.paint import painted

_UNREADABLE = (UnidentifiedImageError, InputError, OSError, SyntaxError, ValueError, Image.DecompressionBombError)
SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def photo_files(paths: Sequence[Path]) -> list[Path]:
    """The files, and of each folder its images by name. InputError for what is not there."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
            if not inside:
                raise InputError(f"no images in {str(path)!r}; vitc reads {', '.join(sorted(SUFFIXES))}")
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            raise InputError(f"there is no picture or folder {str(path)!r}")
    return files


def read_photo(path: Path) -> Image.Image:
    """The picture in RGB. InputError, naming the file, for one that cannot be read."""
    try:
        with Image.open(path) as image:
            return as_rgb(ImageOps.exif_transpose(image))
    except _UNREADABLE as error:
        raise InputError(f"the picture {str(path)!r} cannot be read: {error}") from error


def answers(
    runner: Runner, paths: Sequence[Path], threshold: float | None = None, top: int = 5, save: Path | None = None
) -> Iterator[tuple[Path, Path | None, dict[str, Any]]]:
    """(picture, its painted copy in `save`, answer as plain data) of each picture, in order; one run each."""
    model = PictureModel(runner, threshold, top)
    files = photo_files(paths)
    targets: dict[Path, Path] = {}
    if save is not None:
        save.mkdir(parents=True, exist_ok=True)
        for path in files:
            target = save / f"{path.stem}.png"
            if target.resolve() in {p.resolve() for p in (*files, *targets.values())}:
                raise InputError(f"--save would write over {target}; give a folder of its own, and other names")
            targets[path] = target
    for path in files:
        image = read_photo(path)
        [answer] = model([image])
        if path in targets:
            painted(image, model.task, answer).save(targets[path])
        yield path, targets.get(path), answer.to_dict(model.task)
