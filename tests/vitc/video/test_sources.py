"""Files of every kind of oddness, folders, addresses: pictures in order, or a clear message."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitc.errors import InputError
from vitc.video import sources
from vitc.video.sources import Source, open_source

av = pytest.importorskip("av")
from films import SIZE, turn, walking, write, write_sound  # noqa: E402  (needs av)

GO = threading.Event()  # never set: nobody stops these


def _pictures(source: Source) -> list[np.ndarray]:
    return [pixels for _, pixels in source.pictures(GO)]


def _left(pixels: np.ndarray) -> int:
    """Where the bright square begins."""
    return int(np.flatnonzero(pixels.max((0, 2)) > 128)[0])


def test_a_file_gives_its_pictures_in_order(tmp_path: Path) -> None:
    source = open_source(str(write(tmp_path / "a.mp4")))
    assert (source.live, source.fps, source.frames) == (False, 10.0, 20)
    times, pictures = zip(*source.pictures(GO), strict=True)
    assert len(pictures) == 20
    np.testing.assert_allclose(times, np.arange(20) / 10, atol=1e-6)
    assert all(abs(_left(p) - 4 * i) <= 2 for i, p in enumerate(pictures))


def test_a_folder_gives_its_pictures_by_name(tmp_path: Path) -> None:
    for i in range(3):
        Image.fromarray(walking(i)).save(tmp_path / f"{i}.png")
    source = open_source(str(tmp_path), fps=5.0)
    times, pictures = zip(*source.pictures(GO), strict=True)
    assert times == (0.0, 0.2, 0.4)
    assert all((p == walking(i)).all() for i, p in enumerate(pictures))


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "suffix"),
    [
        ("ffv1", "gray", ".mkv"),
        ("ffv1", "yuv420p10le", ".mkv"),
        ("mjpeg", "yuvj420p", ".avi"),
        ("libx264", "yuv420p10le", ".mp4"),
    ],
    ids=["grey", "ten bits", "motion JPEG", "ten bits of H.264"],
)
def test_grey_and_ten_bits_become_rgb(codec: str, pix_fmt: str, suffix: str, tmp_path: Path) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {codec}")
    pictures = _pictures(open_source(str(write(tmp_path / f"a{suffix}", 5, codec, pix_fmt))))
    assert [p.shape for p in pictures] == [(SIZE[1], SIZE[0], 3)] * 5
    assert pictures[0].dtype == np.uint8
    assert pictures[0].max() > 240
    assert abs(_left(pictures[2]) - 8) <= 2


def test_a_varying_rate_keeps_each_pictures_time(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", 4, times=[0, 1, 7, 9])
    times = [moment for moment, _ in open_source(str(path)).pictures(GO)]
    np.testing.assert_allclose(times, [0, 0.1, 0.7, 0.9], atol=2e-3)


def test_a_film_that_was_turned_is_turned_back(tmp_path: Path) -> None:
    pictures = _pictures(open_source(str(turn(write(tmp_path / "a.mp4", 3)))))
    assert pictures[0].shape == (SIZE[0], SIZE[1], 3)
    rows, columns = np.nonzero(pictures[0].max(2) > 128)
    # The square at x 0…16, y 16…32: a quarter turn clockwise puts its left side on top.
    assert (rows.min(), columns.min()) == pytest.approx((0, SIZE[1] - 32), abs=2)


def test_a_film_cut_short_gives_what_is_left_and_counts(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", 20, "mjpeg", "yuvj420p")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    source = open_source(str(path))
    assert 0 < len(_pictures(source)) < 20


def test_damage_in_the_middle_is_survived(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", 20, "mjpeg", "yuvj420p")
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 400] = bytes(400)
    path.write_bytes(data)
    assert len(_pictures(open_source(str(path)))) >= 8


def _bytes(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: _bytes(folder / "a.mp4", b""), r"a\.mp4 is empty: 0 bytes"),
        (lambda folder: _bytes(folder / "a.mp4", b"no film at all" * 99), "cannot be opened as a video: Invalid data"),
        (lambda folder: write_sound(folder / "a.mp4"), r"holds no video: it has audio \(aac\)"),
        (lambda folder: folder / "nowhere.mp4", "there is no video, folder or camera"),
        (lambda folder: folder, "no images in"),
        (lambda folder: "camera:77", "there is no camera /dev/video77; present:"),
        (lambda folder: "http://127.0.0.1:9/x.ts", "cannot be opened as a video: Connection refused"),
    ],
    ids=["empty", "no film", "sound", "missing", "empty folder", "no camera", "no server"],
)
def test_what_is_no_video_says_so(make: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        _pictures(open_source(str(make(tmp_path))))  # type: ignore[operator]


def test_a_header_without_a_picture_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", 5)
    data = path.read_bytes()
    at = data.index(b"mdat")
    end = data.index(b"moov") - 4
    path.write_bytes(data[: at + 4] + bytes(end - at - 4) + data[end:])
    with pytest.raises(InputError, match="holds no picture that can be decoded"):
        _pictures(open_source(str(path)))


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("rtsp://x", {"fps": 5.0}, "is live and has its own speed"),
        ("film", {"fps": 5.0}, "--fps is for folders"),
        ("film", {"fps": -1.0}, "fps is a number of pictures per second"),
    ],
)
def test_options_that_do_not_fit(text: str, options: dict[str, float], message: str, tmp_path: Path) -> None:
    name = str(write(tmp_path / "a.mp4", 2)) if text == "film" else text
    with pytest.raises(InputError, match=message):
        open_source(name, **options)  # type: ignore[arg-type]


def test_a_file_in_real_time_is_live_and_keeps_its_pace(tmp_path: Path) -> None:
    source = open_source(str(write(tmp_path / "a.mp4", 5)), real_time=True)
    assert source.live
    began = time.perf_counter()
    assert len(_pictures(source)) == 5
    assert time.perf_counter() - began >= 0.39  # it can't be faster than its own time


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Serves a film over HTTP, and breaks off in the middle of every second answer."""
    film = write(tmp_path / "a.ts", 30, "mpeg2video").read_bytes()
    calls: list[int] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            calls.append(1)
            if len(calls) == 3:
                self.send_error(503)
                return
            self.send_response(200)
            self.end_headers()
            self.wfile.write(film[: len(film) // 2] if len(calls) % 2 else film)

        def log_message(self, format: str, *args: object) -> None:
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_address[1]}/a.ts"
    httpd.shutdown()
    httpd.server_close()


def test_a_stream_that_is_cut_comes_back(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_FIRST_WAIT", 0.01)
    source = open_source(server)
    said: list[str] = []
    source.on_cut = said.append  # type: ignore[attr-defined]
    stop = threading.Event()
    count = 0
    for _ in source.pictures(stop):
        count += 1
        if source.facts.returns == 3:
            stop.set()
    assert source.facts.cuts == source.facts.returns == 3
    assert count > 60
    assert any("again in 0.0 s" in text for text in said)
