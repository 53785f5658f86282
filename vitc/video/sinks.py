"""Where answers go: an annotated video, JSON lines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from vitc.errors import InputError, missing
from vitc.task import Task, label_of
from vitc.video.boxes import Answer
from vitc.video.count import Event
from vitc.video.sources import Frame

# The first that this FFmpeg has.
_CODECS = ("libx264", "h264", "mpeg4")


class VideoSink:
    """One source's pictures as a video, each shown when it was taken: what was dropped leaves no hole in time."""

    def __init__(self, path: Path) -> None:
        try:
            import av
        except ImportError as error:
            raise missing("av", "writing video", "video") from error
        self._av = av
        if path.suffix.lower() not in (".mp4", ".mkv", ".mov"):
            raise InputError(f"--save takes a .mp4, .mkv or .mov file, got {str(path)!r}")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._container = av.open(str(path), "w")
        except (av.error.FFmpegError, OSError) as error:
            raise InputError(f"{path} cannot be written: {error}") from error
        self._stream: Any = None
        self._last = -1

    def add(self, image: Image.Image, time: float) -> None:
        if self._stream is None:
            # Codecs want even sizes.
            size = image.width - image.width % 2, image.height - image.height % 2
            self._stream = self._opened(*size)
        fitted = image if image.size == self._size else image.resize(self._size)
        frame = self._av.VideoFrame.from_ndarray(np.asarray(fitted), format="rgb24")
        self._last = max(self._last + 1, round(time * 1000))
        frame.pts, frame.time_base = self._last, Fraction(1, 1000)
        self._container.mux(self._stream.encode(frame))

    def _opened(self, width: int, height: int) -> Any:
        if width < 2 or height < 2:
            raise InputError(f"a picture of {width} × {height} pixels is too small for a video")
        self._size = width, height
        name = next((codec for codec in _CODECS if codec in self._av.codecs_available), None)
        if name is None:
            raise InputError(f"this FFmpeg writes none of {', '.join(_CODECS)}")
        stream: Any = self._container.add_stream(name, rate=1000)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        return stream

    def close(self) -> None:
        if self._stream is not None:
            self._container.mux(self._stream.encode(None))
        self._container.close()


class JsonLines:
    """One JSON object a line: {"event": "frame", …} for each picture, and one for each thing that passed or entered."""

    def __init__(self, path: Path, task: Task, sources: Sequence[str]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[str] = path.open("w")
        self._task, self._sources = task, sources

    def add(self, frame: Frame, answer: Answer, events: Sequence[Event]) -> None:
        where = {"source": self._sources[frame.source], "frame": frame.number, "time": round(frame.time, 4)}
        self._write({"event": "frame", **where, **answer.to_dict(self._task)})
        for event in events:
            label = label_of(self._task, event.label)
            self._write({"event": event.what, "place": event.place, "id": event.id, "label": label, **where})

    def _write(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row) + "\n")

    def close(self) -> None:
        self._file.close()
