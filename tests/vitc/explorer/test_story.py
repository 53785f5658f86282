"""From real compilations to the explorer's data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from explorer_models import SmallViT, small_story
from typer.testing import CliRunner

import vitc
from vitc.errors import InputError
from vitc.explorer import document, read_page
from vitc.explorer.collect import Recorder
from vitc.explorer.document import to_json
from vitc.explorer.html import data_digest
from vitc.frontend.capture import capture
from vitc.pipeline.manager import run_pipeline
from vitc.pipeline.text import parse_pipeline


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def planned(images: torch.Tensor) -> vitc.Plan:
    torch.manual_seed(0)
    return vitc.plan(SmallViT(3).eval(), "orin", example_inputs=images[:2], calibration=images)


def test_a_plan_is_explored(planned: vitc.Plan, tmp_path: Path) -> None:
    data, run = read_page(planned.explore(tmp_path / "vit.html"))
    assert data["title"] == "vit"
    assert [step["title"] for step in data["steps"]][1:] == [e.pass_text for e in planned.report.journal]
    assert run["seconds"][1:] == [e.seconds for e in planned.report.journal]
    journal = [(e.created, e.erased) for e in planned.report.journal]
    assert [(s["created"], s["erased"]) for s in data["steps"][1:]] == journal
    last = data["steps"][-1]
    assert sum(last["values"]["ms"].values()) == pytest.approx(planned.report.predicted_ms, rel=1e-4)
    assert sum(last["values"]["flops"].values()) == planned.report.flops
    assert {p["id"] for p in data["panels"]} >= {"blocks", "roofline", "int8", "attention", "lint"}
    assert last["deviation"] > data["steps"][1]["deviation"]


def test_the_same_plan_gives_the_same_data(planned: vitc.Plan, tmp_path: Path) -> None:
    first, second = (read_page(planned.explore(tmp_path / "a.html"))[0] for _ in range(2))
    assert data_digest(first) == data_digest(second)


def test_a_pruned_model_says_what_went(images: torch.Tensor, tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "pruned.html"
    vitc.plan(SmallViT(3).eval(), "orin", example_inputs=images[:2], prune=0.3, explore=path)
    data, _ = read_page(path)
    assert "prune" in data["steps"][1]["title"]
    (bars,) = [p for p in data["panels"] if p["id"] == "pruning"]
    assert sum(r["after"] for r in bars["rows"]) < 0.75 * sum(r["before"] for r in bars["rows"])
    assert max(data["steps"][-1]["values"]["pruned"].values()) > 0.2


@pytest.mark.slow
def test_compile_tells_what_a_search_left_out(images: torch.Tensor, tmp_path: Path) -> None:
    """The reason that the ledger gives stands at the block."""
    torch.manual_seed(0)
    path = tmp_path / "mix.html"
    compiled = vitc.compile(
        SmallViT(3).eval(),
        "cpu",
        example_inputs=images[:2],
        calibration=images,
        max_drop=0.0,
        quantize="int8",
        explore=path,
    )
    data, run = read_page(path)
    assert compiled.report.ledger is not None
    ledger = next(p for p in data["panels"] if p["id"] == "ledger")
    assert [row["label"] for row in ledger["rows"]] == [e.block for e in compiled.report.ledger.entries]
    assert data["facts"]["engine"] == compiled.report.engine
    assert run["measured"] == compiled.report.measured_ms


def test_a_folder_that_is_not_there_is_refused_before_anything_runs() -> None:
    with pytest.raises(InputError, match="there is no folder .* for explore="):
        vitc.plan(SmallViT(3).eval(), "orin", explore="/no/such/folder/x.html")


def test_a_recorder_follows_several_pipelines() -> None:
    program = capture(SmallViT(3).eval(), vitc.load_target("orin"), (torch.randn(2, 3, 32, 32),))
    recorder = Recorder()
    first = run_pipeline(program, parse_pipeline("drop-noops,fold-constants"), (recorder,))
    run_pipeline(first, parse_pipeline("fold-batch-norm"), (recorder,))
    assert [len(p.journal) for p in recorder.programs] == [0, 1, 2, 3]
    run_pipeline(first, parse_pipeline("recognize-gelu"), (recorder,))  # a search that tries another way
    assert [p.pipeline.rpartition(",")[2] for p in recorder.programs][-2:] == ["fold-constants", "recognize-gelu"]


def test_blocks_that_differ_say_why() -> None:
    data = document(small_story())
    (series,) = [m["series"] for m in data["steps"][-1]["modules"] if m["path"] == "blocks"]
    assert series["count"] == 12
    reason = dict(series["differ"])["7"]
    assert reason.startswith("4 linear in fp16, the others' in int8")
    assert reason.endswith("floating point: left out to keep the score within 0.005 (alone 21.5 dB)")


def test_nodes_without_a_number_do_not_break_json() -> None:
    assert "NaN" not in to_json(document(small_story()))


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (["a.html", "timm:vit"], "explorer files are compared with one another"),
        (["none.html"], "there is no file 'none.html'"),
        (["none.onnx"], "there is no ONNX file 'none.onnx'"),
    ],
)
def test_the_command_refuses(sources: list[str], message: str, tmp_path: Path) -> None:
    from vitc.cli import app

    done = CliRunner().invoke(app, ["explore", *sources, "-o", str(tmp_path / "x.html")])
    assert done.exception is not None
    assert message in str(done.exception)
