"""What calibration has found so far, kept in a folder: one that was killed goes on where it was, to the same result.

Every question has a file of its own, named by a hash of all that its answer depends on, so the answers of another model
or of other options are never taken for this one's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch.fx import GraphModule, Node

from vitc import state_file
from vitc.calibration.observer import Observer
from vitc.errors import CalibrationError
from vitc.graph.fingerprint import digest, model_fingerprint
from vitc.state_file import Tensors

#: Between two saves while the stream is read: the state is a few MB to some ten MB.
_SECONDS = 20.0

_WHAT = "calibration journal"


class CalibrationJournal:
    """Files in `folder`/calibration."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder) / "calibration"

    def unseen(
        self,
        module: GraphModule,
        stream: Iterable[tuple[torch.Tensor, ...]],
        watched: Sequence[tuple[Node, Observer]],
    ) -> Iterator[tuple[torch.Tensor, ...]]:
        """The batches of the stream that no earlier run of `module` has shown to these observers, which get the state
        that they had after the others. Batches that were shown are still read, and must be the same.

        Raises CalibrationError if they are not.
        """
        observed = (f"{node.name} {type(observer).__name__}" for node, observer in watched)
        home = self._path(model_fingerprint(module), *observed, state=_state(watched))
        shown, mark = _restored(home, watched)
        count, images, saved = 0, "", time.monotonic()
        try:
            for batch in stream:
                count, images = count + 1, digest(images, tensors=batch)
                if count == shown and images != mark:
                    raise _other_images(home, shown)
                if count > shown:
                    yield batch
                    if time.monotonic() - saved > _SECONDS:
                        _save(home, watched, count, images)
                        saved = time.monotonic()
        except CalibrationError:  # of the stream: what it gave until then is kept
            if count > shown:
                _save(home, watched, count, images)
            raise
        if count < shown:
            raise _other_images(home, shown)
        if count > shown:
            _save(home, watched, count, images)

    def ask(self, question: Sequence[str], answer: Callable[[], Tensors]) -> Tensors:
        """The answer of an earlier run, or of now."""
        home = self._path(*question, state={})
        if home.exists():
            return state_file.read(home, _WHAT, CalibrationError)[0]
        found = answer()
        state_file.write(home, found, {})
        return found

    def _path(self, *question: str, state: Tensors) -> Path:
        return self.folder / f"{digest(*question, *state, tensors=state.values())}.safetensors"


def _state(watched: Sequence[tuple[Node, Observer]]) -> Tensors:
    return {
        f"{i}/{name}": tensor for i, (_, observer) in enumerate(watched) for name, tensor in observer.state().items()
    }


def _save(home: Path, watched: Sequence[tuple[Node, Observer]], count: int, images: str) -> None:
    state_file.write(home, _state(watched), {"batches": count, "images": images})


def _restored(home: Path, watched: Sequence[tuple[Node, Observer]]) -> tuple[int, str]:
    """(batches that the file's state has seen, their digest); the observers have that state."""
    if not home.exists():
        return 0, ""
    tensors, state = state_file.read(home, _WHAT, CalibrationError)
    for i, (_, observer) in enumerate(watched):
        start = f"{i}/"
        observer.restore({name[len(start) :]: tensor for name, tensor in tensors.items() if name.startswith(start)})
    if not isinstance(state.get("batches"), int) or not isinstance(state.get("images"), str):
        raise CalibrationError(f"{home} is no {_WHAT}: it does not say which images it has seen; delete it")
    return state["batches"], state["images"]


def _other_images(home: Path, shown: int) -> CalibrationError:
    return CalibrationError(
        f"the first {shown} calibration batches are not those that {home} was made with; give the same images in the"
        " same order, name another resume folder, or delete this one"
    )
