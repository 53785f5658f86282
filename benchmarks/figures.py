"""Seeded drawings: bright figures of twelve kinds on darker textured grounds, with distractors, noise, turn and
stretch.

An outline is a closed curve around a centre, so one formula a kind draws a whole batch on the pixel grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

#: (name, curve, corners); a kind's place is its label.
KINDS: tuple[tuple[str, str, int], ...] = (
    ("disc", "flower", 0),
    ("triangle", "polygon", 3),
    ("square", "polygon", 4),
    ("pentagon", "polygon", 5),
    ("star of 4", "star", 4),
    ("star of 5", "star", 5),
    ("star of 7", "star", 7),
    ("flower of 3", "flower", 3),
    ("flower of 4", "flower", 4),
    ("flower of 6", "flower", 6),
    ("half disc", "half", 0),
    ("crescent", "crescent", 0),
)


@dataclass(frozen=True)
class Style:
    """How hard the drawings are. Lengths in half image widths, angles in radians, brightness in [−1, 1]."""

    scale: tuple[float, float] = (0.6, 0.85)
    shift: float = 0.1
    turn: float = 0.3
    stretch: float = 0.15
    noise: float = 0.2
    grating: float = 0.25
    distractors: int = 3


STYLE = Style()


def inside(kind: int, x: Array, y: Array) -> Mask:
    """Which points lie in the outline of radius 1 around the origin."""
    _, curve, corners = KINDS[kind]
    squared = x * x + y * y
    if curve == "half":
        return (squared < 1) & (x > -0.1)
    if curve == "crescent":
        return (squared < 1) & ((x - 0.45) ** 2 + y * y > 0.55)
    angle = np.arctan2(y, x)
    if curve == "flower":
        radius = (1 + 0.3 * np.cos(corners * angle)) / 1.3 if corners else np.float32(0.85)
    else:
        sector = np.float32(2 * np.pi / corners)
        folded = np.abs(angle % sector - sector / 2)  # 0 in the middle of a side, sector/2 at a corner
        radius = np.cos(sector / 2) / np.cos(folded) if curve == "polygon" else 0.45 + 1.1 * folded / sector
    return np.asarray(squared < radius * radius)


class Painter:
    """Draws `count` images of `size`² pixels at once, every random number from `seed`."""

    def __init__(self, count: int, size: int, seed: int, style: Style) -> None:
        self.count, self.style = count, style
        self.random = np.random.default_rng(seed)
        self.grid = np.linspace(-1, 1, size, dtype=np.float32)
        self.images = self._texture(-1.0, 0.1)

    def figures(self, kinds: npt.NDArray[np.int64], scale: tuple[float, float], shift: float) -> Mask:
        """Paints one figure an image, of the given kinds [count]. Returns where, [count, size, size]."""
        x, y = self._coordinates(scale, shift, self.style.turn, self.style.stretch)
        mask = np.zeros(x.shape, dtype=bool)
        for kind in np.unique(kinds):
            chosen = kinds == kind
            mask[chosen] = inside(int(kind), x[chosen], y[chosen])
        self._paint(mask)
        return mask

    def finish(self) -> Array:
        """Adds distractors (small lozenges) and noise. [count, 3, size, size] float32."""
        for _ in range(self.style.distractors):
            x, y = self._coordinates((0.05, 0.12), 1.0, np.pi, 0.8)
            self._paint(np.abs(x) + np.abs(y) < 1)
        noise = self.random.standard_normal(self.images.shape, dtype=np.float32)
        return np.asarray(self.images + self.style.noise * noise, dtype=np.float32)

    def _uniform(self, low: float, high: float, *shape: int) -> Array:
        return self.random.uniform(low, high, (self.count, *(shape or (1, 1)))).astype(np.float32)

    def _coordinates(
        self, scale: tuple[float, float], shift: float, turn: float, stretch: float
    ) -> tuple[Array, Array]:
        """The pixels' places in a figure's own frame."""
        size, ratio, angle = self._uniform(*scale), np.exp(self._uniform(-stretch, stretch)), self._uniform(-turn, turn)
        x = self.grid[None, None, :] - self._uniform(-shift, shift)
        y = self.grid[None, :, None] - self._uniform(-shift, shift)
        cosine, sine = np.cos(angle), np.sin(angle)
        return (x * cosine + y * sine) / size * ratio, (y * cosine - x * sine) / size / ratio

    def _texture(self, low: float, high: float) -> Array:
        """A colour and a grating over it."""
        angle, frequency = self._uniform(0, np.pi), self._uniform(3, 16)
        along = self.grid[None, None, :] * np.cos(angle) + self.grid[None, :, None] * np.sin(angle)
        wave = np.sin(frequency * along + self._uniform(0, 2 * np.pi))[:, None]
        return self._uniform(low, high, 3, 1, 1) + self.style.grating * self._uniform(-1, 1, 3, 1, 1) * wave

    def _paint(self, mask: Mask) -> None:
        self.images = np.where(mask[:, None], self._texture(-0.1, 1.0), self.images)


def classified(count: int, seed: int, size: int = 64, style: Style = STYLE) -> tuple[Array, npt.NDArray[np.int64]]:
    """One figure an image. Images [count, 3, size, size] and labels [count]."""
    painter = Painter(count, size, seed, style)
    labels = painter.random.integers(0, len(KINDS), count)
    painter.figures(labels, style.scale, style.shift)
    return painter.finish(), labels


def segmented(
    count: int,
    seed: int,
    size: int = 64,
    kinds: tuple[int, ...] = (0, 1, 2, 5, 11),
    figures: int = 3,
    style: Style = STYLE,
) -> tuple[Array, npt.NDArray[np.int64]]:
    """Several figures an image, later ones over earlier ones. Images [count, 3, size, size] and, a pixel, 0 for the
    ground or 1 + the place in `kinds`: [count, size, size]."""
    painter = Painter(count, size, seed, style)
    labels = np.zeros((count, size, size), dtype=np.int64)
    for _ in range(figures):
        places = painter.random.integers(0, len(kinds), count)
        mask = painter.figures(np.array(kinds)[places], (0.25, 0.45), 0.6)
        labels = np.where(mask, 1 + places[:, None, None], labels)
    return painter.finish(), labels
