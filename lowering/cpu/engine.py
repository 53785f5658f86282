"""What every CPU engine is, whoever made it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Port:
    """One input or output of an engine.

    name:  as the ONNX file has it.
    dtype: numpy's name.
    shape: holds a name where the size is dynamic.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class Engine(Protocol):
    """A compiled network. `run` may be called from several threads at once.

    Inputs must have the ports' dtypes, be of their rank and lie in memory row after row (C order). Outputs
    are new arrays, never views of the engine's own memory.
    """

    remark: str
    """Why it is not a faster engine; empty where there is nothing to say."""

    @property
    def name(self) -> str:
        """`onnxruntime`, `openvino` or `native`."""

    @property
    def version(self) -> str:
        """The engine's own version."""

    @property
    def inputs(self) -> tuple[Port, ...]: ...

    @property
    def outputs(self) -> tuple[Port, ...]: ...

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """One inference: input name -> array to output name -> array."""

    def close(self) -> None:
        """Lets go of the network's memory. A closed engine can't run again; closing twice is fine."""


def no_longer_open(name: str) -> str:
    """The message for a run on a closed engine."""
    return f"the {name} engine is closed; open it again with vitc.lowering.cpu.open_engine"
