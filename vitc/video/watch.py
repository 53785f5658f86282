"""Sources to counts: threads that overlap, joined by bounded queues.

    decode (a thread per source) ─▶ prepare ─▶ engine ─▶ boxes, tracks, counts, pictures ─▶ sinks
                            gate per source   two batches  two batches

A file waits where a queue is full; a live source loses its oldest waiting picture, and the loss is counted. Where all
sources are live, a batch is put together as late as the engine allows, so that what is shown is never old.
"""

from __future__ import annotations

import platform
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from vitc.errors import InputError
from vitc.runtime.energy import EnergyMeter
from vitc.runtime.runner import Runner
from vitc.task import Detection, label_of
from vitc.version import __version__
from vitc.video.boxes import Answer, Detections
from vitc.video.count import Counting, Event, Line, Zone
from vitc.video.flow import Clock, Ended, Gate
from vitc.video.live import LivePage
from vitc.video.model import PictureModel, size_of
from vitc.video.paint import painted
from vitc.video.report import STAGES, RunReport, SourceReport, Times
from vitc.video.sinks import JsonLines, VideoSink
from vitc.video.sources import Frame, Source, Stream, open_source
from vitc.video.track import Tracker, TrackerOptions

OnFrame: TypeAlias = Callable[[Frame, Answer, "list[Event]"], None]

# Pictures of a file that wait decoded; of a live source the newest is all that is wanted.
_WAITING = 4


@dataclass(frozen=True)
class WatchOptions:
    """What to do with the pictures. Lines and zones need `track`. `batch`: pictures of one run, one at most of each
    live source; None: as many as there are sources. `frames`: stop after so many, `seconds`: or so long. `save`: a
    video file, for several sources one each; `json_lines`: a file; `live`: a port on localhost, 0 for any free one."""

    threshold: float | None = None
    top: int = 1
    track: bool | TrackerOptions = False
    lines: Sequence[Line] = ()
    zones: Sequence[Zone] = ()
    batch: int | None = None
    frames: int | None = None
    seconds: float | None = None
    save: Path | None = None
    json_lines: Path | None = None
    live: int | None = None
    progress: bool = False
    on_frame: OnFrame | None = None
    root: Path = Path("/")


def watch(runner: Runner, sources: Sequence[str | Source], options: WatchOptions | None = None) -> RunReport:
    """Runs until the sources end, `frames` or `seconds` are reached, or Ctrl-C; then reports.

    Raises InputError for sources that cannot be read and options that do not fit the bundle's task.
    """
    options = options or WatchOptions()
    model = PictureModel(runner, options.threshold, options.top)
    _check(model, options)
    opened = [open_source(s) if isinstance(s, str) else s for s in sources]
    if not opened:
        raise InputError("there is nothing to watch: give at least one source")
    run = _Run(model, opened, options)
    with EnergyMeter(options.root) as meter:
        run.go(meter)
    return run.report(meter)


def _check(model: PictureModel, options: WatchOptions) -> None:
    if options.track and not isinstance(model.task, Detection):
        raise InputError("--track follows boxes, and this bundle gives labels of whole pictures")
    if (options.lines or options.zones) and not options.track:
        raise InputError("--line and --zone count things that are followed: add --track")
    if options.batch is not None and not model.batch[0] <= options.batch <= model.batch[1]:
        raise InputError(f"the bundle runs {model.batch[0]} to {model.batch[1]} pictures at once, not {options.batch}")


@dataclass
class _Feed:
    """One source and all that is kept of it."""

    source: Source
    gate: Gate[Frame]
    counting: Counting
    tracker: Tracker | None
    video: VideoSink | None
    decoded: int = 0
    shown: int = 0
    late: int = 0


@dataclass
class _Batch:
    frames: list[Frame]
    inputs: Any = None
    outputs: dict[str, Any] = field(default_factory=dict)


class _Run:
    def __init__(self, model: PictureModel, sources: Sequence[Source], options: WatchOptions) -> None:
        self._model, self._options = model, options
        self._most = min(model.batch[1], options.batch or max(model.batch[0], len(sources)))
        self._all_live = all(source.live for source in sources)
        self._any_live = any(source.live for source in sources)
        self._clocks = {name: Clock() for name in (*STAGES, "end to end")}
        self._stop = threading.Event()
        self._fault: BaseException | None = None
        # A batch ready before the engine wants it is a batch that grows old.
        self._ready: Gate[_Batch] = Gate(1 if self._all_live else 2)
        self._done: Gate[_Batch] = Gate(2)
        self._taken = time.perf_counter()
        self._waiting = threading.Event()
        self._batches = 0
        self._began = time.perf_counter()
        self._ended: float | None = None
        self._timeline: list[float] = []
        self._stride = 1
        self._json: JsonLines | None = None
        self._page: LivePage | None = None
        follows = options.track if isinstance(options.track, TrackerOptions) else None
        if options.track and follows is None:
            follows = TrackerOptions(high=model.threshold, low=min(0.1, model.threshold))
        self._low = follows.low if follows else None
        self._feeds = []
        try:
            for number, source in enumerate(sources):
                if isinstance(source, Stream):
                    source.on_cut = self._say
                self._feeds.append(
                    _Feed(
                        source,
                        Gate(1 if source.live else max(_WAITING, 2 * self._most), source.live),
                        Counting(options.lines, options.zones),
                        Tracker(follows, source.fps) if follows else None,
                        VideoSink(_numbered(options.save, number, len(sources))) if options.save else None,
                    )
                )
            names = [source.name for source in sources]
            if options.json_lines is not None:
                self._json = JsonLines(options.json_lines, model.task, names)
            if options.live is not None:
                self._page = LivePage(options.live, len(sources), self.state)
                self._say(f"live on {self._page.address}")
        except BaseException:
            self._close()
            raise

    # The threads.

    def go(self, meter: EnergyMeter) -> None:
        threads = [threading.Thread(target=self._guarded, args=(self._decode, n)) for n in range(len(self._feeds))]
        threads += [threading.Thread(target=self._guarded, args=(step,)) for step in (self._prepare, self._engine)]
        last = threading.Thread(target=self._guarded, args=(self._show,))
        for thread in (*threads, last):
            thread.daemon = True
            thread.start()
        limit = self._options.seconds
        try:
            looked = time.perf_counter()
            while last.is_alive():
                last.join(0.1)
                now = time.perf_counter()
                if limit is not None and now - self._began >= limit:
                    self._halt()
                if now - looked > 20:
                    looked = now
                    meter.look()
                if self._options.progress:
                    self._progress(now)
        except KeyboardInterrupt:
            self._say("stopped")
            self._halt()
        for thread in (*threads, last):
            thread.join(30)
        self._ended = time.perf_counter()
        if self._options.progress:
            self._progress(self._ended, end=True)
        self._close()
        if self._fault is not None:
            raise self._fault

    def _guarded(self, step: Callable[..., None], *arguments: Any) -> None:
        try:
            step(*arguments)
        except Ended:
            pass
        except BaseException as error:
            self._fault = self._fault or error
            self._halt()

    def _halt(self) -> None:
        self._stop.set()
        self._waiting.set()
        for feed in self._feeds:
            feed.gate.end(drop=True)
        self._ready.end(drop=True)
        self._done.end(drop=True)

    def _decode(self, number: int) -> None:
        feed = self._feeds[number]
        try:
            started = time.perf_counter()
            for moment, pixels in feed.source.pictures(self._stop):
                now = time.perf_counter()
                if not feed.source.live:  # of a live one that is mostly waiting
                    self._clocks["decode"].add(now - started)
                frame = Frame(number, feed.decoded, moment, pixels, now)
                feed.decoded += 1
                feed.gate.put(frame)
                self._waiting.set()
                started = time.perf_counter()
        finally:
            feed.gate.end()
            self._waiting.set()

    def _prepare(self) -> None:
        try:
            self._put_together()
        finally:
            self._ready.end()

    def _put_together(self) -> None:
        open_feeds = list(self._feeds)
        while open_feeds and not self._stop.is_set():
            self._wait_for_the_engine()
            frames: list[Frame] = []
            for feed in tuple(open_feeds):
                try:
                    frames += self._next_of(feed, self._share(feed, len(open_feeds)))
                except Ended:
                    open_feeds.remove(feed)
            if not frames:
                self._waiting.wait(0.05)
                self._waiting.clear()
                continue
            for start in range(0, len(frames), self._most):
                batch = _Batch(frames[start : start + self._most])
                with self._timed("prepare"):
                    batch.inputs = self._model.prepare([frame.pixels for frame in batch.frames])
                self._ready.put(batch)

    def _share(self, feed: _Feed, feeds: int) -> int:
        return 1 if feed.source.live else max(1, self._most // feeds)

    def _next_of(self, feed: _Feed, most: int) -> list[Frame]:
        """What waits of a feed, at most `most`; raises Ended when all of it was given before."""
        frames: list[Frame] = []
        while len(frames) < most:
            try:
                # Files are waited for, so that batches are full, unless that would let a live picture grow old.
                frame = feed.gate.take(0.0 if self._any_live else None)
            except Ended:
                if not frames:
                    raise
                break
            if frame is None:
                break
            frames.append(frame)
        return frames

    def _wait_for_the_engine(self) -> None:
        """Live only: till the engine will soon be free, by what it and the preparation took of late."""
        if not self._all_live or not self._batches:
            return
        free = self._taken + self._clocks["engine"].recent - 1.5 * self._clocks["prepare"].recent - 0.002
        self._stop.wait(max(0.0, free - time.perf_counter()))

    def _engine(self) -> None:
        try:
            while True:
                batch = self._ready.take()
                assert batch is not None
                self._taken = time.perf_counter()
                self._batches += 1
                with self._timed("engine"):
                    batch.outputs = self._model.run(batch.inputs)
                batch.inputs = None
                self._done.put(batch)
        finally:
            self._done.end()

    def _show(self) -> None:
        while True:
            batch = self._done.take()
            assert batch is not None
            began = time.perf_counter()
            answers = self._model.read(batch.outputs, [size_of(frame.pixels) for frame in batch.frames], self._low)
            share = (time.perf_counter() - began) / len(batch.frames)
            for frame, answer in zip(batch.frames, answers, strict=True):
                self._one(self._feeds[frame.source], frame, answer, share)
                if self._options.frames is not None and self._shown() >= self._options.frames:
                    self._halt()
                    return

    def _one(self, feed: _Feed, frame: Frame, answer: Answer, read: float) -> None:
        """`read`: the seconds its answer took to read."""
        events: list[Event] = []
        began = time.perf_counter()
        if feed.tracker is not None and isinstance(answer, Detections):
            answer = feed.tracker(answer, frame.time)
            events = feed.counting(answer, size_of(frame.pixels), frame.time)
        self._clocks["boxes"].add(read + time.perf_counter() - began)
        feed.shown += 1
        age = time.perf_counter() - frame.taken
        self._clocks["end to end"].add(age)
        self._note(age)
        if feed.source.live and feed.source.fps and age > 2 / feed.source.fps:
            feed.late += 1
        with self._timed("sinks"):
            if feed.video is not None or self._page is not None:
                notes = self._notes(feed)
                image = painted(Image.fromarray(frame.pixels), self._model.task, answer, notes)
                if feed.video is not None:
                    feed.video.add(image, frame.time)
                if self._page is not None:
                    self._page.show(frame.source, image)
            if self._json is not None:
                self._json.add(frame, answer, events)
            if self._options.on_frame is not None:
                self._options.on_frame(frame, answer, events)

    # The numbers.

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._clocks[stage].add(time.perf_counter() - began)

    def _shown(self) -> int:
        return sum(feed.shown for feed in self._feeds)

    def _note(self, age: float) -> None:
        """The end-to-end times, thinned out by half whenever there are too many."""
        if self._clocks["end to end"].count % self._stride == 0:
            self._timeline.append(round(1e3 * age, 3))
        if len(self._timeline) >= 480:
            self._timeline = [(a + b) / 2 for a, b in zip(self._timeline[::2], self._timeline[1::2], strict=False)]
            self._stride *= 2

    def _notes(self, feed: _Feed) -> list[str]:
        counts = self._named(feed)["lines"]
        return [f"{name}  in {sum(c['in'].values())}  out {sum(c['out'].values())}" for name, c in counts.items()]

    def _named(self, feed: _Feed) -> dict[str, Any]:
        return feed.counting.to_dict(lambda number: label_of(self._model.task, number))

    def _seconds(self) -> float:
        return (self._ended or time.perf_counter()) - self._began

    def _times(self, name: str) -> Times:
        clock = self._clocks[name]
        p50, p95, p99 = (1e3 * s for s in clock.percentiles((50, 95, 99)))
        return Times(p50, p95, p99, 1e3 * clock.total / max(1, clock.count))

    def _sources(self) -> tuple[SourceReport, ...]:
        return tuple(
            SourceReport(
                name=feed.source.name,
                decoded=feed.decoded,
                shown=feed.shown,
                dropped=feed.gate.dropped,
                unseen=feed.decoded - feed.shown - feed.gate.dropped,
                late=feed.late,
                damaged=feed.source.facts.damaged,
                cuts=feed.source.facts.cuts,
                returns=feed.source.facts.returns,
                counts=self._named(feed),
            )
            for feed in self._feeds
        )

    def state(self) -> dict[str, Any]:
        """The numbers of now, for the live page."""
        total = self._times("end to end")
        sources = self._sources()
        rows = [
            [name, way, label, count]
            for source in sources
            for name, ways in source.counts["lines"].items()
            for way, labels in ways.items()
            for label, count in labels.items()
        ]
        return {
            "frames": self._shown(), "fps": self._shown() / max(1e-9, self._seconds()),
            "p50_ms": total.p50, "p95_ms": total.p95, "dropped": sum(s.dropped for s in sources),
            "stages": {name: {"p50": t.p50, "p95": t.p95} for name in STAGES for t in [self._times(name)]},
            "sources": [{k: getattr(s, k) for k in _SHOWN} for s in sources],
            "counts": rows,
        }  # fmt: skip

    def report(self, meter: EnergyMeter) -> RunReport:
        runner = self._model.runner
        manifest = runner.bundle.manifest
        frames = self._shown()
        return RunReport(
            bundle=runner.bundle.path.name,
            engine=f"{runner.engine.name} {runner.engine.version}",
            precision="INT8" if "quantize-int8" in manifest.pipeline else "floating point",
            machine=f"{platform.machine()}, {platform.system()}",
            seconds=self._seconds(),
            frames=frames,
            fps=frames / max(1e-9, self._seconds()),
            batch=frames / max(1, self._batches),
            stages={name: self._times(name) for name in STAGES},
            end_to_end=self._times("end to end"),
            sources=self._sources(),
            energy=meter.energy,
            timeline=tuple(self._timeline),
            versions={"vitc": __version__, "numpy": np.__version__, "python": platform.python_version()},
        )

    # Words to the user, on stderr.

    def _say(self, text: str) -> None:
        if self._options.progress or self._options.live is not None:
            print(text, file=sys.stderr)

    def _progress(self, now: float, end: bool = False) -> None:
        if not sys.stderr.isatty():
            return
        shown, seconds = self._shown(), now - self._began
        known = [feed.source.frames for feed in self._feeds]
        text = f"{shown}"
        if all(known):
            total = sum(n or 0 for n in known)
            left = (total - shown) * seconds / max(1, shown)
            text += f"/{total} frames  {shown / max(1e-9, seconds):5.1f} FPS  {left // 60:.0f}:{left % 60:02.0f} left"
        else:
            dropped = sum(feed.gate.dropped for feed in self._feeds)
            text += f" frames  {shown / max(1e-9, seconds):5.1f} FPS  {dropped} dropped"
        print(f"\r{text:<70}", end="\n" if end else "", file=sys.stderr, flush=True)

    def _close(self) -> None:
        for feed in self._feeds:
            if feed.video is not None:
                feed.video.close()
        if self._json is not None:
            self._json.close()
        if self._page is not None:
            self._page.close()


_SHOWN = ("name", "shown", "dropped", "late", "damaged", "cuts", "returns")


def _numbered(path: Path, number: int, count: int) -> Path:
    return path if count == 1 else path.with_stem(f"{path.stem}-{number}")
