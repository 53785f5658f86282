"""`python -m vitc.runtime {build,run,watch,bench,check,verify} BUNDLE`: what a device needs, with nothing but argparse.

Exit codes, as of `vitc` (vitc/exit_codes.py): 0 done; 1 what was asked can't be done, with the reason on stderr; 2 a
wrong command line; 3 the self-check failed.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from vitc.bundle import read_bundle, verify
from vitc.errors import InputError
from vitc.exit_codes import CHECK_FAILED, OK
from vitc.files.npy import read_npy
from vitc.lowering.cpu.engine import Array
from vitc.printable import printable_lines
from vitc.runtime import watch_command
from vitc.runtime.bench import make_feeds
from vitc.runtime.builder import build
from vitc.runtime.runner import ENGINES, load
from vitc.terminal import run_command


def main(arguments: Sequence[str] | None = None, program: str = "python -m vitc.runtime") -> int:
    """Runs one command. `program`: what the help calls it. Returns the exit code."""
    options = _parser(program).parse_args(arguments)
    return run_command("error", lambda: int(options.command(options)))


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=program, description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="{build,run,watch,bench,check,verify}")

    def command(name: str, function: Any, text: str, engine: bool = True, as_json: bool = True) -> Any:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=function)
        sub.add_argument("bundle", type=Path, help="a bundle: a folder or a .vitc file")
        if as_json:
            sub.add_argument("--json", action="store_true", help="one JSON object on stdout")
        if engine:
            sub.add_argument("--engine", choices=ENGINES, default="auto")
            sub.add_argument("--threads", type=int, help="of a CPU engine; default: all cores")
        return sub

    sub = command("build", _build, "build the TensorRT engine for this machine", engine=False)
    sub.add_argument("--batch", type=int, help="the batch to tune for; default: the smallest the bundle takes")
    sub.add_argument("--plugin", type=Path, help="the compiled attention plugin's library")
    sub.add_argument("--capability", help="build for another machine, with TensorRT-RTX: SM86, SM89, …")
    sub = command("run", _run, "run the model on pictures, or on arrays")
    sub.add_argument("pictures", nargs="*", type=Path, help="pictures and folders of them, to print labels or boxes of")
    sub.add_argument("--top", type=int, default=5, help="labels per picture of a classifier")
    sub.add_argument("--threshold", type=float, help="least score of a box; default: the bundle's own")
    sub.add_argument("--save", type=Path, help="a folder for the pictures with their labels or boxes painted in")
    sub.add_argument("--input", action="append", default=[], metavar="NAME=FILE.npy", help="repeat for each input")
    sub.add_argument(
        "--out",
        type=Path,
        help="a folder for the outputs: NAME.npy each, other characters than letters, digits and .-_ as _",
    )
    sub = command("watch", _watch, "watch videos, cameras and streams: boxes, tracks, counts", as_json=False)
    watch_command.add_arguments(sub)
    sub = command("bench", _bench, "time the model here")
    sub.add_argument("--batch", type=int)
    sub.add_argument("--rounds", type=int, default=50)
    sub.add_argument("--warmup", type=int, default=5)
    command("check", _check, "compare with the bundle's golden outputs")
    sub = command("verify", _verify, "check every file's hash, and whose signature it is", engine=False)
    sub.add_argument(
        "--key", help="minisign's public key: a file, or the key itself; default: no signature is asked for"
    )
    return parser


def _print(options: argparse.Namespace, plain: Any, text: str) -> None:
    print(json.dumps(plain, default=str) if options.json is True else printable_lines(text))


def _build(options: argparse.Namespace) -> int:
    bundle = read_bundle(options.bundle)
    if bundle.manifest.tensorrt is None:
        _print(options, {"engine": None}, f"{bundle.path}: for a CPU, whose engine needs no build")
        return OK
    path, built = build(bundle, options.batch, options.plugin, options.capability)
    text = f"{path}: {built.layers} layers, {built.distribution} {built.version}, batch {built.batch}"
    _print(options, {"engine": str(path), **asdict(built)}, text)
    return OK


def _run(options: argparse.Namespace) -> int:
    if options.pictures:
        return _run_on_pictures(options)
    if options.save is not None or options.threshold is not None:
        raise InputError("--save and --threshold are for pictures: vitc run BUNDLE photo.jpg")
    with load(options.bundle, options.engine, options.threads) as runner:
        feeds = _feeds(options.input) if options.input else make_feeds(runner.bundle)
        outputs = runner.run(**feeds)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        for name, array in outputs.items():
            # A tensor's name may hold what a path may not.
            file = re.sub(r"[^\w.-]", "_", name)
            np.save(options.out / f"{file}.npy", array, allow_pickle=False)
    rows = {name: {"dtype": str(array.dtype), "shape": list(array.shape)} for name, array in outputs.items()}
    lines = [f"{name}: {row['dtype']} {row['shape']}" for name, row in rows.items()]
    _print(options, {"engine": runner.engine.name, "outputs": rows}, "\n".join(lines))
    return OK


def _run_on_pictures(options: argparse.Namespace) -> int:
    """One line per label or box, or one JSON object per picture."""
    if options.input or options.out is not None:
        raise InputError("--input and --out are for arrays; with pictures it is --save FOLDER")
    from vitc.video.photos import answers

    with load(options.bundle, options.engine, options.threads) as runner:
        for path, saved, answer in answers(runner, options.pictures, options.threshold, options.top, options.save):
            rows = next(iter(answer.values()))
            text = [f"{path}" + (f" -> {saved}" if saved else "")]
            for row in rows:
                place = f"  {row['box']}" if "box" in row else ""
                text.append(f"    {row['score']:.4f}  {row['label']}{place}")
            _print(options, {"picture": str(path), **answer}, "\n".join(text if rows else [*text, "    nothing"]))
    return 0


def _watch(options: argparse.Namespace) -> int:
    data, text = watch_command.run(options)
    _print(options, data, text)
    return 0


def _bench(options: argparse.Namespace) -> int:
    with load(options.bundle, options.engine, options.threads) as runner:
        report = runner.benchmark(options.batch, options.rounds, options.warmup)
        _print(options, {**asdict(report), "reason": runner.reason}, f"{report}\nengine: {runner.reason}")
    return OK


def _check(options: argparse.Namespace) -> int:
    with load(options.bundle, options.engine, options.threads) as runner:
        report = runner.self_check()
        _print(options, {"passed": report.passed, **asdict(report)}, f"{report}\nengine: {runner.reason}")
    return OK if report.passed else CHECK_FAILED


def _verify(options: argparse.Namespace) -> int:
    bundle = read_bundle(options.bundle)
    comment = None if options.key is None else verify(bundle, options.key)
    text = f"{bundle.path}: {len(bundle.manifest.files)} files, every hash right"
    signed = "; no signature was asked for" if comment is None else f"; signed with this key: {comment}"
    _print(options, {"files": len(bundle.manifest.files), "signature": comment}, text + signed)
    return OK


def _feeds(inputs: Sequence[str]) -> dict[str, Array]:
    feeds: dict[str, Array] = {}
    for text in inputs:
        name, separator, path = text.partition("=")
        if not separator:
            raise InputError(f"--input takes NAME=FILE.npy, got {text!r}")
        try:
            feeds[name] = read_npy(path)
        except (OSError, ValueError) as error:
            raise InputError(f"--input {text}: not an array in NumPy's format ({error})") from error
    return feeds


if __name__ == "__main__":
    sys.exit(main())
