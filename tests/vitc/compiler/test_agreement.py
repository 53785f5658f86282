"""What is not exact is refused by name: the pass, or the engine, that differs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

import vitc
from vitc.compiler import agreement
from vitc.compiler.agreement import cosine
from vitc.compiler.compiled import CompiledModel
from vitc.demo.digits import DigitsViT
from vitc.graph import Rewriter
from vitc.pipeline.default import structure_passes

IMAGES = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
aten = torch.ops.aten


@dataclass(frozen=True)
class WrongGelu(vitc.Pass):
    """Puts ReLU where GELU stands."""

    name = "wrong-gelu"
    needs = "canonical"

    def run(self, program: vitc.Program) -> vitc.Program:
        rewriter = Rewriter(program.module, self.name)
        for node in program.graph.find_nodes(op="call_function", target=aten.gelu.default):
            with rewriter.at(node):
                rewriter.replace(node, rewriter.call(aten.relu.default, node.args[0]))
        rewriter.finish()
        return program


@dataclass(frozen=True)
class MeantSo(WrongGelu):
    """Puts ReLU where GELU stands, and says that it costs accuracy."""

    name = "relu-on-purpose"
    exact = False


@pytest.fixture
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    network = DigitsViT(depth=2).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return network


def _compile(model: torch.nn.Module, *extra: vitc.Pass, **options: Any) -> CompiledModel:
    canonical = structure_passes()
    return vitc.compile(
        model,
        example_inputs=IMAGES[:2],
        pipeline=(*canonical[:-1], *extra, canonical[-1]) if extra else None,
        **options,
    )


def test_a_wrong_pass_is_named(model: torch.nn.Module) -> None:
    message = (
        r"where it needs a cosine of 0.9999. The first pass that changes the result is 'wrong-gelu' .*exact = False"
    )
    with pytest.raises(vitc.AccuracyError, match=message):
        _compile(model, WrongGelu())


def test_a_pass_that_says_so_may_change_the_function(model: torch.nn.Module) -> None:
    compiled = _compile(model, MeantSo())
    assert compiled.report.agreement["cosine to the original, example input"] < 0.9999


def test_another_engine_serves_where_one_computes_wrong(
    model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = vitc.compile(model, example_inputs=IMAGES[:2]).engine.name
    real = CompiledModel.__call__

    def faulty(self: CompiledModel, *args: Any) -> Any:
        out = real(self, *args)
        return out.flip(-1) if self.engine.name == first else out

    monkeypatch.setattr(CompiledModel, "__call__", faulty)
    compiled = vitc.compile(model, example_inputs=IMAGES[:2])
    assert compiled.engine.name != first
    assert f"{first} computes this graph wrong" in compiled.report.decisions[-1]
    assert compiled.report.agreement["cosine to the original, example input"] > 0.99999
    monkeypatch.setattr(CompiledModel, "__call__", lambda self, *args: real(self, *args).flip(-1))
    with pytest.raises(vitc.AccuracyError, match="The graph is right and no engine here computes it so"):
        vitc.compile(model, example_inputs=IMAGES[:2])


def test_a_weight_that_is_no_number_is_named(model: torch.nn.Module) -> None:
    with torch.no_grad():
        next(model.parameters()).flatten()[0] = float("nan")
    with pytest.raises(vitc.VitcError, match=r"weight '.*' holds 1 NaN or infinite values"):
        vitc.compile(model, example_inputs=IMAGES[:2])


def test_int8_that_loses_much_warns_first_thing(model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "INT8_ON_IMAGES", 0.9999999)
    with pytest.warns(vitc.AccuracyWarning, match=r"INT8 has a cosine of only .* preprocessed as for inference"):
        compiled = vitc.compile(model, "orin", example_inputs=IMAGES[:2], calibration=IMAGES)
    assert compiled.report.text().startswith("WARNING   INT8 has a cosine of only")


def test_int8_that_is_good_does_not_warn(model: torch.nn.Module, recwarn: pytest.WarningsRecorder) -> None:
    compiled = vitc.compile(model, "orin", example_inputs=IMAGES[:2], calibration=IMAGES)
    assert not [w for w in recwarn if issubclass(w.category, vitc.AccuracyWarning)]
    assert compiled.report.agreement["cosine of INT8 to floating point, calibration images"] > agreement.INT8_ON_IMAGES


@pytest.mark.parametrize(
    ("wanted", "got", "value"),
    [
        ([1.0, 2.0], [1.0, 2.0], 1.0),
        ([1.0, 0.0], [0.0, 1.0], 0.0),
        ([0.0, 0.0], [0.0, 0.0], 1.0),
        ([0.0, 0.0], [0.0, 1.0], 0.0),
        ([float("-inf"), 1.0], [float("-inf"), 1.0], 1.0),
        ([1.0, 1e-9], [1.0, -1e-9], 1.0),
    ],
)
def test_cosine(wanted: list[float], got: list[float], value: float) -> None:
    assert cosine([torch.tensor(wanted)], [torch.tensor(got)]) == pytest.approx(value)


def test_cosine_of_what_is_no_number() -> None:
    one, nan = torch.tensor([1.0, 2.0]), torch.tensor([1.0, float("nan")])
    assert cosine([one], [nan]) != cosine([one], [nan])
    assert cosine([one, one], [one, nan]) != cosine([one, one], [one, nan])
    assert cosine([nan], [nan]) == 1.0
    assert cosine([one], [one[:1]]) != cosine([one], [one[:1]])
    assert cosine([torch.tensor([3, 4])], [torch.tensor([3, 5])]) == 0.5
