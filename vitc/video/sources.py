"""Where pictures come from: a video file, a folder of pictures, a camera, a stream over the network.

A source is iterated once and gives frames in order. A live source cannot wait: what is not taken is gone. PyAV decodes
all but folders; it is imported only when a source needs it.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from vitc.errors import InputError, missing
from vitc.video.model import Pixels
from vitc.video.photos import photo_files, read_photo

# A stream is tried again after so many seconds, twice as long each time, up to the last.
_FIRST_WAIT, _LAST_WAIT = 0.5, 30.0

# Of a connection that gives nothing.
_TIMEOUT = 10.0

_NETWORK = ("rtsp://", "rtsps://", "rtmp://", "http://", "https://", "udp://", "tcp://", "srt://")


@dataclass(frozen=True)
class Frame:
    """A picture [H, W, 3] uint8 RGB. `number` counts from 0, `time` is the source's own clock in seconds, `taken` when
    it was decoded, by time.perf_counter()."""

    source: int
    number: int
    time: float
    pixels: Pixels
    taken: float


@dataclass
class SourceFacts:
    """What went wrong on the way, counted. `damaged`: packets that could not be decoded. `cuts`: times a stream broke
    off; `returns`: times it came back."""

    damaged: int = 0
    cuts: int = 0
    returns: int = 0


class Source(Protocol):
    """`live`: it cannot wait. `fps`: pictures a second, where known. `frames`: how many there will be, where known."""

    name: str
    live: bool
    fps: float | None
    frames: int | None
    facts: SourceFacts

    def pictures(self, stop: threading.Event) -> Iterator[tuple[float, Pixels]]:
        """(time in seconds, picture) until the end, or until `stop` is set."""
        ...


def open_source(text: str, fps: float | None = None, real_time: bool = False) -> Source:
    """The source a text names: a video file, a folder of pictures, `camera:0` (or /dev/video0), or an address such as
    rtsp://…

    fps: of a folder, 10 if not given. real_time: a file or folder is played as a camera would give it, at its own
        speed, and does not wait.

    Raises InputError for what is not there, holds no video, or cannot be read; MissingDependencyError without PyAV.
    """
    if fps is not None and not 0 < fps <= 1000:
        raise InputError(f"fps is a number of pictures per second, got {fps}")
    if text.startswith(_NETWORK):
        if real_time or fps is not None:
            raise InputError(f"{text} is live and has its own speed; --real-time and --fps are for files and folders")
        return Stream(text, text, {"rtsp_transport": "tcp"} if text.startswith("rtsp") else {})
    if text.startswith("camera:") or text.startswith("/dev/video"):
        number = text.removeprefix("camera:")
        device = f"/dev/video{number}" if number.isdigit() else number
        if not Path(device).exists():
            raise InputError(f"there is no camera {device}; present: {_cameras()}")
        return Stream(text, device, {}, "v4l2")
    path = Path(text)
    if path.is_dir():
        source: Source = Folder(path, fps or 10.0)
    elif path.exists():
        if fps is not None:
            raise InputError(f"{text} is a video and has its own speed; --fps is for folders of pictures")
        source = VideoFile(path)
    else:
        raise InputError(f"there is no video, folder or camera {text!r}; an address begins with {', '.join(_NETWORK)}")
    return Paced(source) if real_time else source


def _cameras() -> str:
    return ", ".join(map(str, sorted(Path("/dev").glob("video*")))) or "(none)"


class Folder:
    """Pictures by name, `fps` a second."""

    live: bool = False

    def __init__(self, path: Path, fps: float) -> None:
        self.name = str(path)
        self.fps: float | None = fps
        self.facts = SourceFacts()
        self._period = 1 / fps
        self._files = photo_files([path])
        self.frames: int | None = len(self._files)

    def pictures(self, stop: threading.Event) -> Iterator[tuple[float, Pixels]]:
        for number, path in enumerate(self._files):
            if stop.is_set():
                return
            yield number * self._period, np.asarray(read_photo(path))


class VideoFile:
    """A file of any format FFmpeg reads, turned as it says it was filmed. Rates may vary: each picture has its time."""

    live: bool = False

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self.facts = SourceFacts()
        if path.stat().st_size == 0:
            raise InputError(f"{path} is empty: 0 bytes")
        with _opened(self.name) as container:
            stream = _video_of(container, self.name)
            self.fps = float(stream.average_rate) if stream.average_rate else None
            self.frames = stream.frames or None
            if self.frames is None and self.fps and container.duration:
                self.frames = round(container.duration / 1e6 * self.fps) or None

    def pictures(self, stop: threading.Event) -> Iterator[tuple[float, Pixels]]:
        count = 0
        with _opened(self.name) as container:
            for moment, pixels in _decoded(container, _video_of(container, self.name), self.facts):
                count += 1
                yield moment if moment is not None else (count - 1) / (self.fps or 25.0), pixels
                if stop.is_set():
                    return
        if not count:
            raise InputError(f"{self.name} holds no picture that can be decoded: it is damaged, or cut off early")


@dataclass
class Stream:
    """A camera or an address. When it breaks off it is opened again, after a wait that doubles up to 30 seconds."""

    name: str
    address: str
    options: dict[str, str]
    format: str | None = None
    live: bool = True
    fps: float | None = None
    frames: int | None = None
    facts: SourceFacts = field(default_factory=SourceFacts)
    on_cut: Callable[[str], None] | None = None

    def pictures(self, stop: threading.Event) -> Iterator[tuple[float, Pixels]]:
        began = time.perf_counter()
        wait = _FIRST_WAIT
        ever = False
        while not stop.is_set():
            reason = "it ended"
            came_back = False
            try:
                with _opened(self.address, self.format, self.options) as container:
                    for _, pixels in _decoded(container, _video_of(container, self.name), self.facts):
                        if not came_back:
                            came_back, wait = True, _FIRST_WAIT
                            self.facts.returns += ever
                            ever = True
                        # The sender's clock may jump when it comes back: ours does not.
                        yield time.perf_counter() - began, pixels
                        if stop.is_set():
                            return
            except InputError as error:
                if not ever:
                    raise  # a wrong address is no cut
                reason = str(error)
            if not ever:
                raise InputError(f"{self.name} gave no picture that can be decoded")
            self.facts.cuts += came_back
            if self.on_cut is not None:
                self.on_cut(f"{self.name}: {reason}; again in {wait:.1f} s")
            stop.wait(wait)
            wait = min(2 * wait, _LAST_WAIT)


class Paced:
    """A file or folder as a camera would give it: each picture at its own time, whether it is taken or not."""

    live: bool = True

    def __init__(self, source: Source) -> None:
        self._source = source
        self.name, self.fps, self.frames, self.facts = source.name, source.fps, source.frames, source.facts

    def pictures(self, stop: threading.Event) -> Iterator[tuple[float, Pixels]]:
        began: float | None = None
        for moment, pixels in self._source.pictures(stop):
            if began is None:
                began = time.perf_counter() - moment
            if stop.wait(max(0.0, began + moment - time.perf_counter())):
                return
            yield moment, pixels


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise missing("av", "reading video", "video") from error
    av.logging.set_level(av.logging.PANIC)  # what matters of FFmpeg's messages is raised
    return av


def _opened(address: str, kind: str | None = None, options: dict[str, str] | None = None) -> Any:
    av = _av()
    timeout = (_TIMEOUT, _TIMEOUT) if address.startswith(_NETWORK) else None
    try:
        return av.open(address, format=kind, options=options or {}, timeout=timeout)
    except (av.error.FFmpegError, ValueError, OSError) as error:
        raise InputError(f"{address} cannot be opened as a video: {_reason(error)}") from error


def _video_of(container: Any, name: str) -> Any:
    if not container.streams.video:
        names = [f"{s.type} ({s.codec_context.name})" if s.codec_context else s.type for s in container.streams]
        kinds = ", ".join(names)
        raise InputError(f"{name} holds no video: it has {kinds or 'no stream at all'}")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise InputError(f"{name} holds video in a format that this FFmpeg cannot decode")
    stream.thread_type = "AUTO"
    return stream


def _decoded(container: Any, stream: Any, facts: SourceFacts) -> Iterator[tuple[float | None, Pixels]]:
    """(time, or None where the file gives none; picture). Packets that cannot be decoded are counted and left out;
    where the file itself breaks off, so do the pictures."""
    av = _av()
    packets = container.demux(stream)
    first: float | None = None
    for _ in itertools.count():
        try:
            packet = next(packets)
        except StopIteration:
            return
        except (av.error.FFmpegError, OSError) as error:
            facts.damaged += 1
            if container.size and container.size > 0:
                return  # a file that is cut off
            raise InputError(f"the connection broke: {_reason(error)}") from error
        try:
            frames = packet.decode()
        except (av.error.FFmpegError, ValueError):
            facts.damaged += 1
            continue
        for frame in frames:
            pixels = frame.to_ndarray(format="rgb24")
            if frame.rotation:
                pixels = np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90) % 4))
            moment = None if frame.time is None else float(frame.time)
            first = moment if first is None else first
            yield None if moment is None or first is None else moment - first, pixels


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
