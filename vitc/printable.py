"""Text from files on a terminal: names in a model or bundle may hold what a terminal would obey."""

from __future__ import annotations

import unicodedata

_MOST = 200


def printable(text: str, most: int | None = _MOST) -> str:
    """A name in one line, as it may be printed: control characters and those that turn the writing around as escapes.

    Longer ones than `most` are cut in the middle; None: they are not.

    >>> printable("norm\\x1b[2J")
    'norm\\\\x1b[2J'
    """
    if most is not None and len(text) > most:
        text = f"{text[: most // 2]}…{text[-(most // 2) :]}"
    return "".join(_escaped(character) for character in text)


def printable_lines(text: str) -> str:
    """A whole message or report, whose line breaks and tabs are its own."""
    lines = text.split("\n")
    return "\n".join("\t".join(printable(part, None) for part in line.split("\t")) for line in lines)


def _escaped(character: str) -> str:
    # Cc: control; Cf: invisible, among them those that turn the direction; Cs: half characters; Zl, Zp: line breaks.
    if unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return character
    return character.encode("unicode_escape").decode("ascii")
