"""A progress bar on stderr."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class Bar:
    """One line a stage: steps, loss, the last score, the time left. Silent unless wanted."""

    def __init__(self, wanted: bool) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}{task.fields[score]}"),
            TimeRemainingColumn(), console=Console(stderr=True), disable=not wanted,
        )  # fmt: skip
        self._task = TaskID(0)

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def begin(self, stage: str, step: int, total: int) -> None:
        self._task = self._progress.add_task(stage, completed=step, total=total, loss="", score="")

    def step(self, loss: float) -> None:
        self._progress.update(self._task, advance=1, loss=f"loss {loss:.4f}")

    def score(self, score: float) -> None:
        self._progress.update(self._task, score=f", score {score:.4f}")
