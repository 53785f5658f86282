"""Who watches a tensor while the calibration stream is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor


class Observer(Protocol):
    """Sees a tensor once a batch; `images` is the batch's size. `state`: all that it has learnt and will draw, to go on
    from."""

    def update(self, value: Tensor, images: int) -> None: ...

    def state(self) -> dict[str, Tensor]: ...

    def restore(self, state: Mapping[str, Tensor]) -> None: ...
