"""TensorRT's logger. It takes one per process and ignores the others: here is the one, to be listened to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple


class Message(NamedTuple):
    """One message; `severity` is "VERBOSE", "INFO", "WARNING", "ERROR" or "INTERNAL_ERROR"."""

    severity: str
    text: str


class BuildLog:
    """Everything TensorRT logs goes to the one listener of the moment, and nowhere while there is none."""

    def __init__(self, trt: Any) -> None:
        self._turn = threading.Lock()
        self._messages: list[Message] | None = None
        self.logger = _make_logger(trt, self._take)

    def _take(self, message: Message) -> None:
        if self._messages is not None:
            self._messages.append(message)

    @contextmanager
    def listen(self) -> Iterator[list[Message]]:
        """The messages of what is done inside. One at a time: a second thread waits."""
        with self._turn:
            messages: list[Message] = []
            self._messages = messages
            try:
                yield messages
            finally:
                self._messages = None


@cache
def build_log(trt: Any) -> BuildLog:
    """This process's log of the distribution `trt`."""
    return BuildLog(trt)


def _make_logger(trt: Any, take: Any) -> Any:
    class Listener(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            take(Message(str(severity).rpartition(".")[2], text))

    return Listener()


def errors(messages: list[Message]) -> list[str]:
    """What TensorRT called an error, each once and in order."""
    texts = [text.strip() for severity, text in messages if severity in ("ERROR", "INTERNAL_ERROR")]
    return list(dict.fromkeys(texts))
