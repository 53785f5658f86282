"""All of it together: a film in, boxes, tracks, counts, a film, JSON and a report out; live sources; the page."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from vitc.errors import InputError
from vitc.runtime import load
from vitc.runtime.__main__ import main
from vitc.runtime.runner import Runner
from vitc.video.boxes import Detections
from vitc.video.count import Line, Zone
from vitc.video.live import LivePage
from vitc.video.model import PictureModel, Pixels
from vitc.video.sources import SourceFacts, open_source
from vitc.video.watch import WatchOptions, watch

av = pytest.importorskip("av")
from films import walking, write  # noqa: E402  (needs av)

GATE = Line("gate", (0.5, 0.0), (0.5, 1.0))


class Drawn:
    """A source of `count` pictures, as fast as they are taken, or each `period` seconds if it is live."""

    name = "drawn"
    frames: int | None = None

    def __init__(self, count: int, period: float | None = None, step: int = 4) -> None:
        self.count, self.period, self.step = count, period, step
        self.live = period is not None
        self.fps: float | None = 10.0 if period is None else 1 / period
        self.facts = SourceFacts()

    def pictures(self, stop: threading.Event) -> Iterator[tuple[float, Pixels]]:
        for i in range(self.count):
            if stop.wait(self.period or 0.0):
                return
            yield i / 10, walking(i % 20, self.step)


@pytest.fixture
def runner(detector: Path) -> Iterator[Runner]:
    with load(detector, threads=1) as loaded:
        yield loaded


def test_one_command_from_a_film_to_counts(detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    film = write(tmp_path / "in.mp4")
    arguments = ["--track", "--line", "gate=0.5,0,0.5,1", "--zone", "z=0,0,0.4,0,0.4,1,0,1"]
    outputs = ["--save", str(tmp_path / "out.mp4"), "--json", str(tmp_path / "out.jsonl")]
    report = tmp_path / "report.json"
    assert main(["watch", str(detector), str(film), *arguments, *outputs, "--report", str(report)]) == 0
    text = capsys.readouterr().out
    assert "20 frames in" in text
    assert "gate: in 1 square; out 0" in text
    assert "not measurable here: " in text or " J/frame" in text
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    frames = [row for row in rows if row["event"] == "frame"]
    assert [row["frame"] for row in frames] == list(range(20))
    assert {box["label"] for row in frames for box in row["boxes"]} == {"square"}
    passed = [(row["event"], row["place"], row["id"]) for row in rows if row["event"] != "frame"]
    assert ("in", "gate", 1) in passed
    assert ("entered", "z", 1) in passed
    assert ("left", "z", 1) in passed
    data = json.loads(report.read_text())
    assert data["sources"][0]["counts"]["lines"] == {"gate": {"in": {"square": 1}, "out": {}}}
    assert data["frames"] == data["sources"][0]["shown"] == 20
    back = open_source(str(tmp_path / "out.mp4"))
    painted = [pixels for _, pixels in back.pictures(threading.Event())]
    assert len(painted) == 20
    assert (np.abs(painted[10].astype(int) - walking(10)).max() > 100).any()


def test_a_classifier_watches_too(classifier: Path, tmp_path: Path) -> None:
    answers = []
    with load(classifier, threads=1) as loaded:
        options = WatchOptions(on_frame=lambda frame, answer, events: answers.append(answer))
        watch(loaded, [Drawn(5)], options)
    assert len(answers) == 5


def test_files_lose_nothing_and_batches_are_filled(runner: Runner) -> None:
    seen = []
    options = WatchOptions(batch=4, on_frame=lambda frame, *_: seen.append((frame.source, frame.number)))
    report = watch(runner, [Drawn(20), Drawn(12)], options)
    assert sorted(seen) == [(0, i) for i in range(20)] + [(1, i) for i in range(12)]
    assert [n for s, n in seen if s == 0] == list(range(20))
    assert report.dropped == 0
    assert report.batch > 2
    assert report.stages["engine"].p50 > 0


def test_a_live_source_twice_too_fast_loses_the_oldest_and_adds_up(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = PictureModel.run

    def slow(self: PictureModel, inputs: np.ndarray) -> dict:
        time.sleep(0.02)
        return real(self, inputs)

    monkeypatch.setattr(PictureModel, "run", slow)
    numbers: list[int] = []
    report = watch(runner, [Drawn(150, 0.01)], WatchOptions(on_frame=lambda frame, *_: numbers.append(frame.number)))
    [source] = report.sources
    assert source.decoded == 150
    assert source.dropped > 20
    assert source.shown + source.dropped + source.unseen == source.decoded
    assert source.unseen == 0
    assert numbers == sorted(set(numbers))
    assert source.shown == len(numbers) == report.frames


def test_several_sources_have_counts_of_their_own(runner: Runner) -> None:
    report = watch(runner, [Drawn(20), Drawn(3)], WatchOptions(track=True, lines=[GATE]))
    assert [s.counts["lines"]["gate"]["in"] for s in report.sources] == [{"square": 1}, {}]


def test_it_stops_after_so_many_pictures_or_so_long(runner: Runner) -> None:
    assert watch(runner, [Drawn(1000)], WatchOptions(frames=7)).frames == 7
    report = watch(runner, [Drawn(10_000, 0.01)], WatchOptions(seconds=0.5))
    assert 0 < report.frames < 200


def test_a_fault_in_a_thread_is_the_callers(runner: Runner) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        watch(runner, [Drawn(50)], WatchOptions(on_frame=broken))


def test_low_scores_serve_the_tracker_only(runner: Runner) -> None:
    answers: list[Detections] = []
    options = WatchOptions(track=True, on_frame=lambda f, answer, e: answers.append(answer))  # type: ignore[arg-type]
    watch(runner, [Drawn(10)], options)
    assert all((a.scores >= 0.5).all() or (a.ids[a.scores < 0.5] >= 0).all() for a in answers)


def test_the_page_shows_the_run(runner: Runner, capsys: pytest.CaptureFixture[str]) -> None:
    seen: dict[str, bytes] = {}

    def look(frame: object, answer: object, events: object) -> None:
        if "/" in seen or getattr(frame, "number") < 15:  # noqa: B009
            return
        address = capsys.readouterr().err.split("live on ")[1].split()[0]
        for path in ("", "state.json", "metrics", "frame/0.jpg"):
            with urllib.request.urlopen(address + path, timeout=10) as response:
                seen[f"/{path}"] = response.read()
        for path in ("nothing", "frame/7.jpg", "frame/x.jpg", "../../etc/passwd"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(address + path, timeout=10)

    watch(runner, [Drawn(20)], WatchOptions(track=True, lines=[GATE], live=0, on_frame=look))
    assert b"<title>vitc watch</title>" in seen["/"]
    state = json.loads(seen["/state.json"])
    assert state["sources"][0]["name"] == "drawn"
    assert state["counts"] == [["gate", "in", "square", 1]]
    assert b'vitc_line_total{line="gate",way="in",label="square"} 1' in seen["/metrics"]
    assert seen["/frame/0.jpg"].startswith(b"\xff\xd8")


def test_a_port_that_is_taken_says_so() -> None:
    page = LivePage(0, 1, dict)
    port = int(page.address.split(":")[2].strip("/"))
    with pytest.raises(InputError, match=f"--live cannot serve on port {port}: .*; give another, or 0 for any"):
        LivePage(port, 1, dict)
    page.close()


def test_the_report_as_text_json_and_picture(runner: Runner, tmp_path: Path) -> None:
    from xml.etree import ElementTree

    report = watch(runner, [Drawn(12)], WatchOptions(track=True, lines=[GATE]))
    for name in ("r.txt", "r.json", "r.svg"):
        report.save(tmp_path / name)
    assert "end to end  p50" in (tmp_path / "r.txt").read_text()
    assert json.loads((tmp_path / "r.json").read_text())["end_to_end"]["p50"] > 0
    assert ElementTree.parse(tmp_path / "r.svg").getroot().tag.endswith("svg")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (WatchOptions(lines=[GATE]), "add --track"),
        (WatchOptions(zones=[Zone("z", ((0, 0), (1, 0), (1, 1)))]), "add --track"),
        (WatchOptions(batch=99), "the bundle runs 1 to 4 pictures at once, not 99"),
        (WatchOptions(save=Path("out.gif")), r"--save takes a \.mp4, \.mkv or \.mov file"),
    ],
)
def test_refusals(options: WatchOptions, message: str, runner: Runner) -> None:
    with pytest.raises(InputError, match=message):
        watch(runner, [Drawn(2)], options)


def test_a_classifier_has_nothing_to_track(classifier: Path) -> None:
    with load(classifier, threads=1) as loaded, pytest.raises(InputError, match="--track follows boxes"):
        watch(loaded, [Drawn(2)], WatchOptions(track=True))


def test_nothing_to_watch(runner: Runner) -> None:
    with pytest.raises(InputError, match="there is nothing to watch"):
        watch(runner, [])
