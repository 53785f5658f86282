"""Answers painted onto pictures, with Pillow."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import TypeAlias

from PIL import Image, ImageDraw, ImageFont

from vitc.task import Task, label_of
from vitc.video.boxes import Answer, Detections

Color: TypeAlias = tuple[int, int, int]
Font: TypeAlias = ImageFont.ImageFont | ImageFont.FreeTypeFont


def painted(image: Image.Image, task: Task, answer: Answer, notes: Sequence[str] = ()) -> Image.Image:
    """A copy with boxes, or the best labels, and lines of text in the upper left corner."""
    image = image.copy()
    pen = ImageDraw.Draw(image)
    font = ImageFont.load_default(max(11, round(image.height / 36)))
    if isinstance(answer, Detections):
        _boxes(pen, font, task, answer, max(1, round(image.height / 300)))
    else:
        best = zip(answer.labels.tolist(), answer.scores.tolist(), strict=True)
        notes = [*notes, *(f"{label_of(task, number)}  {score:.1%}" for number, score in best)]
    for row, text in enumerate(notes):
        _text(pen, font, (4, 4 + row * (font.size + 6)), text, (0, 0, 0))  # type: ignore[union-attr]
    return image


def color_of(number: int) -> Color:
    """A strong color, far from the next numbers' colors."""
    r, g, b = colorsys.hsv_to_rgb(number * 0.618034 % 1.0, 0.85, 0.95)
    return round(255 * r), round(255 * g), round(255 * b)


def _boxes(
    pen: ImageDraw.ImageDraw,
    font: Font,
    task: Task,
    found: Detections,
    width: int,
) -> None:
    # The best last, on top.
    for i in reversed(range(len(found))):
        x0, y0, x1, y1 = found.boxes[i].tolist()
        color = color_of(int(found.labels[i]))
        pen.rectangle([x0, y0, x1, y1], outline=color, width=width)
        track = f" #{found.ids[i]}" if found.ids[i] >= 0 else ""
        text = f"{label_of(task, int(found.labels[i]))}{track} {found.scores[i]:.2f}"
        _text(pen, font, (x0, max(0.0, y0 - font.size - 4)), text, color)  # type: ignore[union-attr]


def _text(
    pen: ImageDraw.ImageDraw,
    font: Font,
    at: tuple[float, float],
    text: str,
    color: Color,
) -> None:
    left, top, right, bottom = pen.textbbox(at, text, font=font)
    pen.rectangle([left - 2, top - 1, right + 2, bottom + 1], fill=color)
    light = 0.3 * color[0] + 0.59 * color[1] + 0.11 * color[2] > 140
    pen.text(at, text, fill=(0, 0, 0) if light else (255, 255, 255), font=font)
