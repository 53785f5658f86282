"""The page in a real browser: what a person does with it. Skipped, with what to install, where there is no browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from explorer_many import ten_thousand
from explorer_models import small_story
from explorer_page import Page, browser
from explorer_steps import graph, node, two_steps
from selenium.webdriver.common.keys import Keys

from vitc.explorer import Story, write
from vitc.explorer.records import EngineView, Layer, Step
from vitc.explorer.sources import compared


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(small_story(), tmp_path_factory.mktemp("explorer") / "small.html")


@pytest.fixture(scope="module")
def mended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(small_story(broken=False), tmp_path_factory.mktemp("explorer") / "mended.html")


def test_it_loads_and_says_nothing_to_the_console(page: Page, small: Path) -> None:
    page.open(small)
    assert "small ViT" in page.text("header")
    assert "blocks ×12" in page.boxes()
    assert "passes that changed nothing" in page.text("nav.passes")
    page.picture("overview")
    for tab in page.run("return window.vitc.tabIds"):
        page.run("window.vitc.tab = arguments[0]; window.vitc.refresh()", tab)
        assert page.text("[role=tabpanel]"), tab
        page.picture(f"tab-{tab}")
    assert page.complaints() == []


def test_modules_fold(page: Page, small: Path) -> None:
    page.open(small)
    assert "norm1 · layer_norm" not in page.boxes()
    page.run("window.vitc.select(-1 - window.vitc.graph.moduleAt('blocks'))")
    page.press(Keys.ENTER)
    assert {"0", "7", "11"} <= set(page.boxes())
    page.run("window.vitc.select(-1 - window.vitc.graph.moduleAt('blocks.7'))")
    page.press(Keys.ENTER)
    assert "norm1 · layer_norm" in page.boxes()
    page.press("c")
    assert "norm1 · layer_norm" not in page.boxes()
    page.press("o")
    assert page.boxes().count("norm2 · layer_norm") >= 11
    assert len(page.boxes()) > 200


def test_a_pass_shows_both_sides(page: Page, small: Path) -> None:
    page.open(small)
    page.click("17 tile-attention", "nav.passes")
    states = "return window.vitc.scene.drawing.boxes.filter(b => b.item >= 0).map(b => b.state).join('')"
    diff = page.run(states)
    assert "+" in diff
    assert "-" in diff
    assert "scaled_dot_product_attention" in page.boxes()
    assert "attention" in page.boxes()
    page.picture("diff")
    page.press("a")
    assert "scaled_dot_product_attention" not in page.boxes()
    assert "attention" in page.boxes()
    page.press("b")
    assert "scaled_dot_product_attention" in page.boxes()
    assert "attention" not in page.boxes()
    assert "attention ×12" in page.text("nav.passes")


def test_search(page: Page, small: Path) -> None:
    page.open(small)
    page.press("/", *"op:linear module:blocks.7")
    assert page.run("return window.vitc.found.length") == 4
    page.press(Keys.ENTER)
    first = page.selected()
    page.press(Keys.ENTER)
    assert page.selected() != first
    assert page.run("return window.vitc.graph.node(window.vitc.scene.selected).path.join('.')").startswith("blocks.7")
    page.press(Keys.ESCAPE)
    for query in (
        "dtype:i8",
        "shape:[batch,16,64]",
        "precision:fp16",
        "gemm-float16",
        "pass:quantize-int8 op:dequantize",
    ):
        page.run("window.vitc.search(arguments[0])", query)
        assert page.run("return window.vitc.found.length") > 0, query
    for query in ("lint:error", "nothing-like-it"):
        page.run("window.vitc.search(arguments[0])", query)
        assert page.run("return window.vitc.found.length") == 0, query


def test_an_address_brings_one_back(page: Page, small: Path) -> None:
    page.open(small)
    page.click("18 quantize-int8", "nav.passes")
    page.press("/", *"op:quantize", Keys.ENTER)
    page.run("window.vitc.find.blur(); window.vitc.setMetric('precision')")
    address, chosen = page.run("return location.hash"), page.selected()
    page.open(small, address)
    seen = page.run("const v = window.vitc; return [v.step, v.scene.mode, v.scene.metric, v.query, v.tab]")
    assert seen == [18, "diff", "precision", "op:quantize", "node"]
    assert page.selected() == chosen
    assert page.run("return location.hash") == address


def test_everything_goes_by_keyboard(page: Page, small: Path) -> None:
    page.open(small)
    last = page.run("return window.vitc.step")
    page.press("k")
    assert page.run("return window.vitc.step") == last - 1
    page.press("j", "a", Keys.ARROW_DOWN)
    seen = [page.selected()]
    for _ in range(4):
        page.press(Keys.ARROW_DOWN)
        seen.append(page.selected())
    assert seen[0] == "x"
    assert len(set(seen)) == 5
    page.press(Keys.ARROW_UP)
    assert page.selected() == seen[-2]
    page.press("]")
    assert page.run("return document.querySelector('[role=tab][aria-selected=true]').textContent") == "Changes"
    page.press("t")
    theme = page.run("return document.documentElement.dataset.theme")
    page.press("t")
    assert page.run("return document.documentElement.dataset.theme") != theme
    page.press("?")
    assert page.run("return window.vitc.help.open")
    page.press(Keys.ESCAPE, "/", "x", Keys.ESCAPE)
    assert page.run("return document.activeElement !== window.vitc.find && window.vitc.query") == ""
    page.press(Keys.ESCAPE)
    assert page.selected() == ""


def test_a_node_is_copied_as_text(page: Page, small: Path) -> None:
    page.open(small)
    page.run("window.vitc.select(window.vitc.graph.named('linear_default'), true)")
    page.press("y")
    page.wait("window.vitc.copied")
    copied = page.run("return window.vitc.copied")
    assert copied.startswith("%linear_default : ")
    assert "# predicted time:" in copied


def test_two_files_side_by_side(page: Page, small: Path, mended: Path, tmp_path: Path) -> None:
    both = tmp_path / "both.html"
    both.write_text(compared([small, mended]))
    page.open(both)
    assert page.run("return window.vitc.scenes.length") == 2
    assert "only here" in page.text("[role=tabpanel]")
    changed = page.run("return [...window.vitc.scenes[1].difference].filter(([i, s]) => s === '~').length")
    assert changed > 0
    page.run("window.vitc.search('module:blocks.3.norm1 op:layer_norm')")
    page.run("window.vitc.select(window.vitc.found[0], true)")
    partner = (
        "const s = window.vitc.scenes[1]; return s.selected === null ? '' : s.graph.node(s.selected).path.join('.')"
    )
    assert page.run(partner) == "blocks.3.norm1"
    page.picture("comparison")
    assert page.complaints() == []


def test_a_file_dropped_onto_the_page_is_compared(page: Page, small: Path, mended: Path) -> None:
    page.open(small)
    page.run(
        "window.done = false; window.vitc.compareWith(arguments[0]).then(() => { window.done = true; })",
        mended.read_text(),
    )
    page.wait("window.done")
    assert page.run("return window.vitc.files.length") == 2
    page.run("window.vitc.compareWith('no such file')")
    page.wait("document.querySelector('[aria-live]').textContent.includes('no explorer file')")
    assert page.complaints() == []


EVIL = (
    "</script><script>window.evil=1</script>",
    "<img src=x onerror=window.evil=1>",
    "a\u202eb\x07\n\x1b[31m",
    "x" * 10_240,
    "${evil}",
    "__proto__",
)


def test_evil_names_are_text(page: Page, tmp_path: Path) -> None:
    nodes = [
        node(name, f"op.{name}", f"blocks.{i}", ("x",), type=name, options=name, made_by=name)
        for i, name in enumerate(EVIL)
    ]
    before = Step(EVIL[0], EVIL[0], graph([]))
    after = Step(
        EVIL[1], "canonical", graph([nodes]), notes=EVIL, values={"ms": dict.fromkeys(EVIL, 1.0)}, error=EVIL[0]
    )
    panel = {
        "id": "t",
        "kind": "table",
        "title": EVIL[1],
        "about": EVIL[0],
        "columns": ["a"],
        "rows": [{"ref": f"%{EVIL[0]}", "cells": [EVIL[1]]}],
    }
    engine = EngineView(EVIL[0], (Layer(EVIL[1], EVIL[0], (EVIL[3],), EVIL[1], True),))
    story = Story(EVIL[0], [before, after], target=EVIL[1], facts={EVIL[0]: EVIL[1]}, panels=[panel], engines=[engine])
    page.open(write(story, tmp_path / "evil.html"))
    page.run("window.vitc.go(1, 'diff'); window.vitc.toggleAll(true)")
    for name in EVIL:
        page.run("window.vitc.select(window.vitc.graph.named(arguments[0]), true)", name)
        assert page.selected() == name
    for tab in page.run("return window.vitc.tabIds"):
        page.run("window.vitc.tab = arguments[0]; window.vitc.refresh()", tab)
    page.run("window.vitc.search('onerror')")
    assert page.run("return window.evil === undefined && document.images.length === 0 && document.scripts.length === 3")
    assert not any(c in page.text() for c in "\u202e\x07\x1b")
    assert page.complaints() == []


def test_without_javascript_the_summary_is_there(small: Path) -> None:
    head = small.read_text().partition('<div id="app">')[0]
    assert "<noscript><pre" in head
    assert "tile-attention" in head


def test_the_walk_of_the_docs(page: Page, small: Path) -> None:
    """docs/explorer.md, "A walk": three questions answered from the file alone."""
    page.open(small)
    # Which block is the slowest?
    page.click("Where the time goes")
    assert page.text("[role=tabpanel] tbody tr").startswith("blocks.4")
    page.click("blocks.4", "[role=tabpanel]")
    assert page.selected() == "blocks.4"
    page.picture("walk-slowest")
    # Which pass brought in a wrong number?
    page.click("Overview")
    assert "pass 16, scale-norm: outputs begin to deviate" in page.text("[role=tabpanel]")
    page.click("pass 16, scale-norm", "[role=tabpanel]")
    assert page.run("return [window.vitc.step, window.vitc.scene.mode]") == [16, "diff"]
    assert "layer_norm → layer_norm" in page.text("[role=tabpanel]")
    page.picture("walk-wrong")
    # Why is block 7 in FP16?
    page.click("Overview")
    assert "left out to keep the score within 0.005" in page.text("[role=tabpanel]")
    page.click("blocks ×12", "[role=tabpanel]")
    assert "7: 4 linear in fp16, the others' in int8" in page.text("[role=tabpanel]")
    page.click("Budget ledger")
    page.click("blocks.7: floating point", "[role=tabpanel]")
    assert page.selected() == "blocks.7"
    page.picture("walk-block-7")
    assert page.complaints() == []


@pytest.mark.slow
@pytest.mark.parametrize("folded", [False, True], ids=["flat", "blocks"])
def test_ten_thousand_nodes_are_drawn(page: Page, tmp_path: Path, folded: bool, record_property, capsys) -> None:  # type: ignore[no-untyped-def]
    """Frames and load are printed, not asserted: machines differ."""
    page.open(write(ten_thousand(folded), tmp_path / "many.html"))
    page.run("window.vitc.toggleAll(true)")
    assert len(page.boxes()) >= 10_000
    found = page.later("window.vitc.frames(1500)") | {"load ms": round(page.run("return window.vitc.loadMs"))}
    with capsys.disabled():
        print(f"\n10,000 nodes, {'blocks' if folded else 'flat'}: {json.dumps(found)}")
    record_property("frames", found)
    assert page.complaints() == []


def test_the_two_steps_of_other_tests(page: Page, tmp_path: Path) -> None:
    """Without costs there is still a graph, coloured by change."""
    page.open(write(Story("plain", [two_steps()[0]]), tmp_path / "plain.html"))
    assert page.run("return window.vitc.scene.metric") == "change"
    assert "blocks ×3" in page.boxes()
    assert page.complaints() == []
