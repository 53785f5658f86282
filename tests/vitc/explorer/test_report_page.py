"""The report as a page without script."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

from vitc.compiler.report import Report
from vitc.cost.prediction import BlockPrediction
from vitc.graph.program import JournalEntry

EVIL = "<script>alert(1)</script>&amp;"


def report() -> Report:
    return Report(
        target="orin",
        pipeline="drop-noops,to-fp16",
        journal=(JournalEntry("drop-noops", "captured", 0, 38, 2, 0.25, ("a note",)),),
        parameters=5_700_000,
        weight_bytes_before=22_900_000,
        weight_bytes_after=11_400_000,
        flops=2_500_000_000,
        attentions=(),
        predicted_ms=3.0,
        predicted_blocks=(
            BlockPrediction("blocks.0", 2.0, 1e9, 1e6, 7, "compute"),
            BlockPrediction(EVIL, 1.0, 1e9, 1e6, 7, "launch"),
        ),
        warnings=(EVIL,),
        skipped=("INT8: pass calibration=images",),
    )


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.words.append(data.strip())


def test_the_page_says_what_the_report_says(tmp_path: Path) -> None:
    path = report().html(tmp_path / "vit.html")
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    assert "script" not in reader.tags
    assert reader.tags.count("rect") == 2
    for text in (
        "vit",
        "orin",
        "22.9 MB → 11.4 MB",
        "drop-noops",
        "38",
        "a note",
        "2 ms",
        "INT8: pass calibration=images",
    ):
        assert text in reader.words
    assert "vitc.compile(model, 'orin', pipeline='drop-noops,to-fp16')" in reader.words
    assert reader.words.count(EVIL) == 2
