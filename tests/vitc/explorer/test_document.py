"""The data part: its form, its sameness, and the file around it."""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from explorer_steps import graph, node, two_steps

from vitc.errors import InputError
from vitc.explorer import Story, document, render, run_part, write
from vitc.explorer.document import to_json
from vitc.explorer.html import data_digest, read_page
from vitc.explorer.records import EngineView, Layer, Step
from vitc.explorer.summary import summary

#: Change it when the form or the layout is meant to change.
GOLDEN = Path(__file__).parent / "golden"


def story(**more: Any) -> Story:
    return Story("three blocks", two_steps(), target="orin", facts={"work": "1 GFLOP"}, **more)


def test_the_data_is_as_it_was() -> None:
    """The golden file is to_json(document(story())) with line breaks."""
    data = document(story())
    assert data == json.loads((GOLDEN / "three_blocks.json").read_text())


def test_seconds_are_no_part_of_the_data() -> None:
    slow = [two_steps()[0], Step(**{**vars(two_steps()[1]), "seconds": 99.0})]
    assert data_digest(document(story())) == data_digest(
        document(Story("three blocks", slow, target="orin", facts={"work": "1 GFLOP"}))
    )
    assert run_part(story()) == {"seconds": [None, 0.125], "measured": {}}


def test_the_data_keeps_to_the_schema() -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed: pip install 'vitc[dev]'")
    schema = json.loads(resources.files("vitc.explorer").joinpath("schema.json").read_text())
    engine = EngineView("RTX", (Layer("gemm", "INT8 GEMM", ("linear_default0",), "FP16 GEMM"),))
    jsonschema.validate(document(story(engines=[engine])), schema)


def test_both_sides_of_a_pass_are_in_its_graph() -> None:
    step = document(story())["steps"][1]
    assert (step["created"], step["erased"], step["altered"]) == (6, 9, 3)
    assert [step["state"].count(s) for s in "+-~="] == [6, 9, 3, 5]
    assert step["what"] == "3 linear → linear + split ×3"
    sides = step["edges"][2::3]
    assert {-1, 0, 1} == set(sides)


def test_a_file_is_read_back(tmp_path: Path) -> None:
    path = write(story(measured={"FP32": 1.5}), tmp_path / "a.html")
    data, run = read_page(path)
    assert data == json.loads(to_json(document(story())))
    assert run["measured"] == {"FP32": 1.5}


def test_the_file_asks_nothing_of_the_network() -> None:
    text = render(story())
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", text)
    assert not re.search(r"\bfetch\(|XMLHttpRequest|WebSocket|importScripts|import\(", text)
    assert "default-src 'none'" in text


EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>{{data}}&amp;\u202e\x07\n"


def test_names_end_no_element_and_fill_no_template() -> None:
    steps = [Step(EVIL, EVIL, graph([[node(EVIL, EVIL, EVIL, ("x",), type=EVIL, options=EVIL)]]), notes=(EVIL,))]
    text = render(Story(EVIL, steps, target=EVIL, facts={EVIL: EVIL}, reasons={EVIL: EVIL}))
    assert text.count("</script>") == 3
    assert "<img" not in text
    assert "alert(1)</title>" not in text


def test_the_summary_says_what_the_page_says() -> None:
    text = summary(document(story()))
    assert "three blocks" in text
    assert " 1 merge-qkv  [+6 -9 ~3]" in text
    assert "blocks ×3: 3 equal" in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<html></html>", "is no explorer file: it has no element 'vitc-data'"),
        ('<script type="application/octet-stream" id="vitc-data">AAAA</script>', "is damaged"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.html"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_page(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no file .*; write one with: vitc explore MODEL"):
        read_page(tmp_path / "none.html")


def test_a_newer_form_is_refused(tmp_path: Path) -> None:
    from vitc.explorer.html import page

    data = {**document(story()), "schema": "vitc-explorer/9"}
    (tmp_path / "n.html").write_text(page(data, {}, ""))
    with pytest.raises(InputError, match="is of the form 'vitc-explorer/9', this vitc reads 'vitc-explorer/1'"):
        read_page(tmp_path / "n.html")
