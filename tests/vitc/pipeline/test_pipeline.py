"""The text of pipelines, their order, what running them promises, and each refusal."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import vitc.targets
from vitc.errors import PassError, PipelineError
from vitc.frontend.capture import capture
from vitc.graph.printer import print_graph
from vitc.graph.program import Program
from vitc.passes.quantization.quantize_int8 import QuantizeInt8
from vitc.passes.tiling.tile_attention import TileAttention
from vitc.pipeline import (
    Pass,
    check_order,
    parse_pipeline,
    print_pipeline,
    register_pass,
    run_pipeline,
    solve_order,
)
from vitc.pipeline.instruments import Diff, Dump, Numerics


@pytest.fixture(scope="module")
def program() -> Program:
    return capture(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()).eval(), vitc.targets.load("cpu"),
                   torch.randn(2, 4))  # fmt: skip


_quantizers = st.builds(
    QuantizeInt8,
    calibrator=st.sampled_from(["minmax", "percentile", "mse", "entropy"]),
    attention=st.booleans(),
    convolutions=st.booleans(),
    head=st.booleans(),
    skip=st.lists(st.from_regex(r"[a-z][a-z0-9_.*]{0,8}", fullmatch=True), max_size=3).map(tuple),
)
_tilers = st.builds(TileAttention, tile_q=st.integers(0, 512), tile_k=st.integers(0, 512))


@settings(deadline=None, max_examples=60)
@given(st.lists(_quantizers | _tilers, max_size=4).map(tuple))
def test_text_round_trip(passes: tuple[Pass, ...]) -> None:
    assert parse_pipeline(print_pipeline(passes)) == passes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("drop-nops", "unknown pass 'drop-nops'.*did you mean 'drop-noops'"),
        ("drop-noops,", "ends in a comma"),
        ("drop-noops{", "cannot read the pipeline at"),
        ("quantize-int8{calibrator}", "cannot read the options of 'quantize-int8' at 'calibrator'"),
        (
            "quantize-int8{calibrater=mse}",
            "unknown option of pass 'quantize-int8' 'calibrater'.*did you mean 'calibrator'",
        ),
        ("quantize-int8{calibrator=max}", "unknown value of option 'calibrator'"),
        ("quantize-int8{head=true,head=true}", "option 'head' of pass 'quantize-int8' is given twice"),
        ("quantize-int8{head=perhaps}", "option head=perhaps of pass 'quantize-int8' is not of type bool"),
        ("tile-attention{tile_q=many}", "option tile_q=many of pass 'tile-attention' is not of type int"),
        ("tile-attention{tile_q=[1,2]}", r"option tile_q=\[1,2\] of pass 'tile-attention' is not of type int"),
        ("tile-attention{tile_q=" + "9" * 5000 + "}", "option tile_q=9{100}… of pass 'tile-attention' is not of"),
        ('quantize-int8{skip=["\\x"]}', r'option skip="\\x" of pass .* is not of type str'),
        ('quantize-int8{skip=["\\ud800"]}', "is not of type str"),
        ("quantize-int8{skip=[a}", "cannot read the options of 'quantize-int8' at 'skip=.a'"),
        ("quantize-int8{skip=[a b", "cannot read the pipeline at"),
        ("drop-noops drop-noops", "cannot read the pipeline at"),
        ("drop-noops\0", "cannot read the pipeline at"),
        (" ", "cannot read the pipeline at"),
        ("drop-noops," * 1001 + "drop-noops", "a pipeline of more than 1000 passes"),
        ("x" * (1 << 20) + "x", "a pipeline of 1048577 characters; at most 1048576 are read"),
    ],
)
def test_unreadable_text(text: str, message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        parse_pipeline(text)


@pytest.mark.parametrize(
    "text",
    ["prune{ratio=" + " " * 100_000 + "[}", "prune{ratio=" + "a " * 50_000 + "[}", "prune" + " " * 100_000 + "{",
     "prune{criterion=" + '"\\"' * 50_000 + "}", "prune{" + "x=[" * 50_000, "prune{" + "ratio=1," * 50_000 + "}",
     "quantize-int8{skip=[" + "a," * 50_000],
    ids=["blanks", "words", "blanks-before", "quotes", "brackets", "options", "list"],
)  # fmt: skip
def test_a_long_text_takes_no_longer_than_it_is(text: str) -> None:
    """Where it took the square of its length, this would take minutes; where its cube, days."""
    with pytest.raises(PipelineError):
        parse_pipeline(text)


def test_quoted_texts_may_hold_what_else_ends_one() -> None:
    odd = QuantizeInt8(skip=("a,b", "c}d", 'e"f', "g]h", "i j"))
    assert parse_pipeline(print_pipeline((odd,))) == (odd,)
    assert parse_pipeline('quantize-int8{ skip = [ a , "b" , ] , }') == (QuantizeInt8(skip=("a", "b")),)


@dataclass(frozen=True)
class First(Pass):
    name = "first"
    before = ("second",)


@dataclass(frozen=True)
class Second(Pass):
    name = "second"


@dataclass(frozen=True)
class Circular(Pass):
    name = "circular"
    after = ("second",)
    before = ("first",)


def test_a_cycle_names_its_constraints() -> None:
    with pytest.raises(PipelineError, match="no order meets the constraints of .*'circular' says before='first'"):
        solve_order((First(), Second(), Circular()))


def test_a_wrong_order_names_one_that_works() -> None:
    with pytest.raises(PipelineError, match="'first' stands after 'second'.*An order that works: first,second"):
        check_order((Second(), First()))


def test_solving_keeps_the_given_order_where_it_is_free() -> None:
    assert [p.name for p in solve_order((Second(), First()))] == ["first", "second"]


def test_a_stage_nobody_gives() -> None:
    message = (
        "'tile-attention' needs stage 'canonical', but the program is at 'captured' there; no pass of this pipeline"
    )
    with pytest.raises(PipelineError, match=message):
        check_order(parse_pipeline("tile-attention"))


def test_registering() -> None:
    class Nameless(Pass):
        pass

    class Thawed(Pass):
        name = "thawed"

    @dataclass(frozen=True)
    class Taken(Pass):
        name = "drop-noops"

    for cls, message in (
        (Nameless, "has no name"),
        (Thawed, "must be a frozen dataclass"),
        (Taken, "is defined twice"),
    ):
        parse_pipeline("drop-noops")  # vitc's own are loaded
        with pytest.raises(PipelineError, match=message):
            register_pass(cls)


@dataclass(frozen=True)
class Failing(Pass):
    name = "failing"

    def run(self, program: Program) -> Program:
        raise ZeroDivisionError("by zero")


@dataclass(frozen=True)
class Forgetful(Pass):
    name = "forgetful"

    def run(self, program: Program) -> Program:
        return None  # type: ignore[return-value]


@dataclass(frozen=True)
class Untyped(Pass):
    name = "untyped"

    def run(self, program: Program) -> Program:
        output = next(n for n in program.graph.nodes if n.op == "output")
        with program.graph.inserting_before(output):
            program.graph.call_function(torch.ops.aten.relu.default, (output.prev,))
        return program


@dataclass(frozen=True)
class Disordered(Pass):
    name = "disordered"

    def run(self, program: Program) -> Program:
        relu = next(n for n in program.graph.nodes if n.target is torch.ops.aten.relu.default)
        next(n for n in program.graph.nodes if n.op == "placeholder").prepend(relu)
        return program


@dataclass(frozen=True)
class Wrong(Pass):
    name = "wrong"

    def run(self, program: Program) -> Program:
        for node in program.graph.nodes:
            if node.target is torch.ops.aten.relu.default:
                node.target = torch.ops.aten.neg.default
        program.module.recompile()
        return program


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (Failing(), "pass 'failing' failed with ZeroDivisionError: by zero"),
        (Forgetful(), "pass 'forgetful' returned NoneType, not a Program"),
        (Untyped(), "pass 'untyped' made node .* without a type"),
        (Disordered(), "pass 'disordered' broke the graph"),
    ],
)
def test_broken_passes_are_named(program: Program, broken: Pass, message: str) -> None:
    with pytest.raises(PassError, match=message):
        run_pipeline(program, (broken,))


def test_numerics_finds_a_pass_that_changes_the_result(program: Program) -> None:
    numerics = Numerics(limit=1e-3)
    run_pipeline(program, parse_pipeline("drop-noops"), (numerics,))
    with pytest.raises(PassError, match="after pass 'wrong' the outputs deviate by"):
        run_pipeline(program, (Wrong(),), (numerics,))


def test_dump_writes_a_file_a_pass_and_deletes_only_its_own(program: Program, tmp_path) -> None:
    for name in ("07-old.txt", "mine.txt"):
        (tmp_path / name).write_text("x")
    run_pipeline(program, parse_pipeline("drop-noops"), (Dump(tmp_path),))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["00-captured.txt", "01-drop-noops.txt", "mine.txt"]


def test_diff_keeps_both_graphs_and_what_the_journal_says(program: Program) -> None:
    diff = Diff()
    after = run_pipeline(program, parse_pipeline("drop-noops,canonical,tile-attention,to-fp16"), [diff])
    assert [change.text for change in diff.changes] == ["drop-noops", "canonical", "tile-attention", "to-fp16"]
    assert diff.changes[0].before == print_graph(program.graph)
    assert diff.changes[1].diff == ""
    assert diff.changes[-1].after == print_graph(after.graph)
    assert diff.changes[-1].entry is after.journal[-1]
    assert "-%linear : f32[2, 4]" in diff.changes[-1].diff.replace("batch", "2")
    assert "+%linear : f16[2, 4]" in diff.changes[-1].diff.replace("batch", "2")
