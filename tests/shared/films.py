"""Small films for tests, written with PyAV: a bright square that walks over black, and odd ones."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

SIZE = (96, 64)  # width and height


def walking(number: int, step: int = 4) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A square of 16 pixels whose left side is at `step` · number."""
    pixels = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    x = step * number
    pixels[16:32, x : x + 16] = 255
    return pixels


def write(
    path: Path,
    frames: int = 20,
    codec: str = "mpeg4",
    pix_fmt: str = "yuv420p",
    times: Sequence[int] | None = None,
) -> Path:
    """`times`: of each picture, in tenths of a second."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = *SIZE, pix_fmt
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(walking(i), format="rgb24")
            frame.pts, frame.time_base = (times[i] if times else i), Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_sound(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("aac", rate=16000)
        samples = np.zeros((1, 16000), np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def turn(path: Path) -> Path:
    """The same mp4 with a display matrix that turns it by a quarter: written into its track header."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    one = (1 << 16).to_bytes(4, "big")
    minus = (-(1 << 16)).to_bytes(4, "big", signed=True)
    zero, w = bytes(4), (1 << 30).to_bytes(4, "big")
    data[at : at + 36] = zero + one + zero + minus + zero + zero + zero + zero + w
    path.write_bytes(data)
    return path
