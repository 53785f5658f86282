"""What a terminal would obey is printed as an escape."""

from __future__ import annotations

from vitc.printable import printable, printable_lines


def test_names() -> None:
    assert printable("blocks.0.attn") == "blocks.0.attn"
    assert printable("\x1b]0;title\x07\x1b[2J\r\nforged") == r"\x1b]0;title\x07\x1b[2J\r\nforged"
    assert printable("a\u202eb\u2028\ud800") == r"a\u202eb\u2028\ud800"
    assert printable("größe → 3×") == "größe → 3×"
    assert printable("a" * 150 + "b" * 150, 10) == "aaaaa…bbbbb"


def test_lines_keep_their_breaks() -> None:
    assert printable_lines("one\n\ttwo\x1b[0m") == "one\n\ttwo\\x1b[0m"
