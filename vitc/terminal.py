"""The edge between vitc and a shell: one line for what went wrong, on whatever terminal there is."""

from __future__ import annotations

import codecs
import io
import os
import sys
from collections.abc import Callable
from contextlib import suppress

from vitc.errors import VitcError
from vitc.exit_codes import OK, USER_ERROR
from vitc.printable import printable_lines

# What vitc's own texts hold beyond ASCII, for terminals that can't show it.
_PLAIN = {"→": "->", "×": "x", "…": "...", "–": "-", "—": "-", "·": ".", "≤": "<=", "≥": ">=", "±": "+-", "²": "2"}
_HANDLER = "vitc.plain"


def _plain(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end]
    return "".join(_PLAIN.get(c, c.encode("ascii", "backslashreplace").decode()) for c in text), error.end


codecs.register_error(_HANDLER, _plain)


def run_command(program: str, command: Callable[[], int]) -> int:
    """Runs a command, and returns the exit code: its own; `USER_ERROR`, with one line on stderr, where it raised a
    VitcError or the system refused something (a full disk, a folder that can't be written). Other exceptions are vitc's
    own faults, and pass."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_HANDLER)
    try:
        code = _finished(command)
        sys.stdout.flush()  # a full disk is found out here, not behind the last line of the program
    except BrokenPipeError:  # `vitc … | head`: the reader has what it wanted
        _close_stdout()
        return USER_ERROR
    except (VitcError, OSError) as error:
        with suppress(OSError):  # stderr may be on the same disk
            print(printable_lines(f"{program}: {error}"), file=sys.stderr, flush=True)
        _close_stdout()
        return USER_ERROR
    return code


def _finished(command: Callable[[], int]) -> int:
    try:
        return command()
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else OK if done.code is None else USER_ERROR


def _close_stdout() -> None:
    """What is left of it goes nowhere, or Python would complain once more while it ends."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
