"""Says in the generated stubs what pybind11 does and can't say: `fix_stubs.py FOLDER`, in place."""

from __future__ import annotations

import re
import sys
from pathlib import Path

REPLACEMENTS = (
    # Errors inside of the stubs are not ours (a dtype called "bool", defaults of None, …).
    (r"\A", "# mypy: ignore-errors\n"),
    # An argument called "in", and one without a default behind some with.
    (r"(?<=[(, ])in: ", "in_: "),
    (r"(def add_scale_nd.*channel_axis: [\w.]+)", r"\1 = ..."),
    # Conversions at the border: a str is taken as FallbackString, a tuple as Dims; callbacks are given ints.
    (r"(: )FallbackString\b", r"\1str"),
    (r"(: )Dims\b(?=[,)=])", r"\1Dims | collections.abc.Sequence[int]"),
    (r"typing\.SupportsInt", "int"),
    # Protocols that are in C: iteration of Dims, the buffers of an engine and of an array.
    (r"^(class Dims[(:].*)$", r"\1\n    def __iter__(self) -> typing.Iterator[int]: ..."),
    (r"^(class IHostMemory[(:].*)$", r"\1\n    def __buffer__(self, flags: int, /) -> memoryview: ..."),
    (r"typing_extensions\.Buffer|collections\.abc\.Buffer", "typing.Any"),
    (r"(data: )buffer\b|(data: )Buffer\b", r"data: typing.Any"),
)


def main(folder: Path) -> None:
    for path in folder.rglob("*.pyi"):
        text = path.read_text(encoding="utf-8")
        for pattern, replacement in REPLACEMENTS:
            text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
