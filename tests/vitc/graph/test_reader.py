"""Text dumps read back: the same graph, the same numbers, and passes that go on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from explorer_models import SmallViT

import vitc
from vitc.errors import InputError
from vitc.explorer.dumps import read_step
from vitc.frontend.capture import capture
from vitc.graph import print_graph
from vitc.graph.program import Program
from vitc.pipeline.instruments import Dump
from vitc.pipeline.manager import run_pipeline
from vitc.pipeline.text import parse_pipeline


class Programs(Dump):
    """A dump that keeps the programs too."""

    programs: list[Program]

    def before(self, item, program) -> None:  # type: ignore[no-untyped-def]
        if self.count == 0:
            self.programs = [program]
        super().before(item, program)

    def after(self, item, before, after) -> None:  # type: ignore[no-untyped-def]
        super().after(item, before, after)
        self.programs.append(after)


@pytest.fixture(scope="module")
def dumped(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    torch.manual_seed(0)
    program = capture(SmallViT(2).eval(), vitc.load_target("orin"), (torch.randn(2, 3, 32, 32),))
    images = torch.randn(4, 3, 32, 32)
    dump = Programs(tmp_path_factory.mktemp("dumps"))
    from vitc.calibration.source import calibration_stream

    program = program.evolve(calibration=calibration_stream(images, program, None))
    text = "drop-noops,canonical,tile-attention,smooth-activations,quantize-int8{calibrator=minmax},to-fp16"
    run_pipeline(program, parse_pipeline(text), (dump,))
    return dump


def test_every_stage_reads_back_to_the_same_graph_and_numbers(dumped: Programs) -> None:
    paths = sorted(dumped.folder.glob("*.txt"))
    assert len(paths) == len(dumped.programs) == 7
    inputs = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    for path, program in zip(paths, dumped.programs, strict=True):
        back = vitc.read_dump(path, program.module.state_dict())
        assert print_graph(back.graph, exact=True) == print_graph(program.graph, exact=True)
        assert (back.stage, back.target, back.batch) == (program.stage, program.target, program.batch)
        assert all(torch.equal(a, b) for a, b in zip(back.run(inputs), program.run(inputs), strict=True)), path.name


def test_without_weights_it_runs_and_passes_go_on(dumped: Programs) -> None:
    path = dumped.folder / "00-captured.txt"
    back = vitc.read_dump(path, target="cpu")
    assert back.target.name == "cpu"
    (out,) = back.run(*back.example_inputs)
    assert out.shape == (2, 10)
    assert bool(out.isfinite().all())
    tiled = run_pipeline(vitc.read_dump(path), parse_pipeline("drop-noops,canonical,tile-attention"))
    assert print_graph(tiled.graph) == print_graph(dumped.programs[3].graph)


def test_the_explorer_reads_the_same_dump(dumped: Programs) -> None:
    step = read_step(dumped.folder / "03-tile-attention.txt")
    assert (step.stage, step.title) == ("tiled", "tile-attention")
    assert {n.op for n in step.nodes} >= {"input", "vitc.attention", "aten.linear", "output"}
    linear = next(n for n in step.nodes if n.op == "aten.linear")
    assert linear.weights[0].type == "f32[192, 64]"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no dump: its first line is not '# stage …'"),
        ("# stage captured\n%x : f32[2] = input\n", "is a dump of an older vitc"),
        ("# stage captured\n# target cpu, batch fixed\nnonsense\n", "x.txt:3: cannot read 'nonsense'"),
        ("# stage captured\n# target cpu, batch fixed\n%x : f99[2] = input\n", "a dump has no type 'f99"),
        (
            "# stage captured\n# target cpu, batch fixed\n%y : f32[2] = no_such_op(1)\n",
            "there is no operator 'no_such_op'",
        ),
        ("# stage captured\n# target cpu, batch fixed\n%y : f32[2] = aten.relu(@w)\n", "does not say what type @w has"),
    ],
)
def test_what_is_no_dump_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        vitc.read_dump(path)


def test_a_missing_file_and_a_wrong_weight_are_refused(dumped: Programs, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no dump"):
        vitc.read_dump(tmp_path / "none.txt")
    with pytest.raises(InputError, match="weight 'head.bias' is torch.float32 .3., the dump has torch.float32 .10."):
        vitc.read_dump(dumped.folder / "00-captured.txt", {"head.bias": torch.zeros(3)})
