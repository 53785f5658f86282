"""`watch BUNDLE SOURCE …`: the arguments, and vitc.video told what they say. Pillow and PyAV are imported only then."""

from __future__ import annotations

import argparse
from pathlib import Path

from vitc.errors import InputError
from vitc.runtime.runner import load


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """What `watch` takes beside the bundle and the engine."""
    sub.add_argument("sources", nargs="+", metavar="SOURCE", help="a video, a folder of pictures, camera:0, rtsp://…")
    sub.add_argument("--threshold", type=float, help="least score of a box; default: the bundle's own")
    sub.add_argument("--top", type=int, default=1, help="labels per picture of a classifier")
    sub.add_argument("--track", action="store_true", help="follow things from picture to picture, and give them ids")
    sub.add_argument(
        "--line", action="append", default=[], metavar="NAME=x0,y0,x1,y1",
        help="count what passes, in shares of width and height; 'in' is to the left hand of who walks along it",
    )  # fmt: skip
    sub.add_argument(
        "--zone", action="append", default=[], metavar="NAME=x0,y0,x1,y1,x2,y2,…", help="count what is inside"
    )
    sub.add_argument("--save", type=Path, metavar="OUT.mp4", help="the video with boxes; several sources: OUT-0.mp4, …")
    sub.add_argument(
        "--json", nargs="?", const=True, metavar="OUT.jsonl",
        help="a JSON line per picture and per passing; without a file: the report as JSON on stdout",
    )  # fmt: skip
    sub.add_argument("--live", type=int, metavar="PORT", help="a page on localhost while it runs; 0: any free port")
    sub.add_argument("--report", type=Path, metavar="OUT", help="the report as .json, .svg or .txt")
    sub.add_argument("--batch", type=int, help="pictures of one run; default: one of each source")
    sub.add_argument("--frames", type=int, help="stop after so many pictures")
    sub.add_argument("--seconds", type=float, help="stop after so long")
    sub.add_argument("--fps", type=float, help="pictures per second of a folder; default: 10")
    sub.add_argument("--real-time", action="store_true", help="play files as a camera would: what is late is dropped")


def run(options: argparse.Namespace) -> tuple[dict[str, object], str]:
    """The report as plain data and as text."""
    for name, value in (("frames", options.frames), ("seconds", options.seconds)):
        if value is not None and value <= 0:
            raise InputError(f"--{name} is greater than 0, got {value}")
    try:
        from vitc.video.count import parse_line, parse_zone
        from vitc.video.sources import open_source
        from vitc.video.watch import WatchOptions, watch
    except ModuleNotFoundError as error:
        if error.name != "PIL":
            raise
        from vitc.errors import missing

        raise missing("pillow", "watching pictures", "video") from error
    wanted = WatchOptions(
        threshold=options.threshold, top=options.top, track=options.track,
        lines=[parse_line(text) for text in options.line], zones=[parse_zone(text) for text in options.zone],
        batch=options.batch, frames=options.frames, seconds=options.seconds, save=options.save,
        json_lines=Path(options.json) if isinstance(options.json, str) else None, live=options.live,
        progress=options.json is not True,
    )  # fmt: skip
    sources = [open_source(text, options.fps, options.real_time) for text in options.sources]
    with load(options.bundle, options.engine, options.threads) as runner:
        report = watch(runner, sources, wanted)
    if options.report is not None:
        report.save(options.report)
    return report.to_dict(), str(report)
