"""Rounding of weights by gptq and adaround: against the best of all roundings, what they must leave alone, and their
gain in a model."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from programs import TILED, captured, outputs, through
from torch import Tensor
from torch.fx import Node

from vitc.calibration.stream import CalibrationStream
from vitc.demo.digits import DigitsViT
from vitc.errors import CalibrationError, PipelineError
from vitc.graph import constant
from vitc.graph.program import Program
from vitc.passes.quantization.rounding.adaround import SoftRounding
from vitc.passes.quantization.rounding.gptq import gptq
from vitc.passes.quantization.rounding.rounding_sample import RoundingSample
from vitc.passes.quantization.rounding.unrounded import Unrounded
from vitc.passes.quantization.rounding.walk import Walk
from vitc.passes.quantization.scales import quantize_weight

SHAPE = (1, 8, 8)
GPTQ = "smooth-activations,quantize-int8{rounding=gptq}"


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _error(weight: Tensor, integers: Tensor, steps: Tensor, moment: Tensor) -> Tensor:
    """Of each output channel, by the definition: Σ ‖(Ŵ − W) x‖²."""
    error = integers * steps[:, None] - weight
    return torch.einsum("oi,ij,oj->o", error, moment, error)


def test_gptq_comes_close_to_the_best_of_all_roundings() -> None:
    weight, inputs = _random(32, 8), _random(64, 8, seed=1) @ _random(8, 8, seed=2)
    moment = inputs.T @ inputs
    nearest, steps = quantize_weight(weight)
    down = (weight / steps[:, None]).floor()
    ways = torch.tensor(list(product((0.0, 1.0), repeat=8)))
    best = torch.stack([_error(weight, (down + way).clamp(-127, 127), steps, moment) for way in ways]).amin(0)
    found = _error(weight, gptq(weight, steps, moment), steps, moment)
    plain = _error(weight, nearest, steps, moment)
    assert (found >= best * 0.999).float().mean() > 0.9  # a step beyond floor and ceiling may do better still
    assert found.sum() < 0.5 * plain.sum()
    assert found.sum() < 3 * best.sum()


def test_soft_rounding_starts_at_the_weight_and_ends_at_a_neighbour() -> None:
    weight = _random(6, 40)
    weight[3] = 0.0
    _, steps = quantize_weight(weight)
    soft = SoftRounding(weight, steps)
    torch.testing.assert_close(soft.soft() * steps[:, None], weight, atol=1e-3, rtol=0)
    assert ((soft.integers() * steps[:, None] - weight).abs() <= 1.001 * steps[:, None]).all()
    assert soft.undecided(2.0).item() > 0.1
    with torch.no_grad():
        soft.variable.copy_(100 * torch.sign(_random(6, 40, seed=1)))
    assert soft.undecided(2.0).item() == 0.0
    torch.testing.assert_close(soft.soft(), soft.integers().float())


def test_uncorrelated_inputs_are_rounded_to_the_nearest() -> None:
    weight = _random(16, 300)
    nearest, steps = quantize_weight(weight)
    assert torch.equal(gptq(weight, steps, torch.diag(_random(300).abs() + 0.1)), nearest)


def test_dead_inputs_and_channels() -> None:
    weight, inputs = _random(4, 200), _random(50, 200, seed=1)  # fewer inputs than columns, too
    weight[1], inputs[:, 7] = 0.0, 0.0
    nearest, steps = quantize_weight(weight)
    rounded = gptq(weight, steps, inputs.T @ inputs)
    assert not rounded[1].any()
    assert torch.equal(rounded[:, 7], nearest[:, 7])
    assert torch.equal(gptq(weight, steps, torch.zeros(200, 200)), nearest)


def test_unrounded_is_the_graph_but_for_its_rounding() -> None:
    """Rounding is a small part of the numbers, attention in INT8 included."""
    torch.manual_seed(0)
    program = through(_tiled(DigitsViT(dim=32, depth=1).eval()), "quantize-int8")
    batch = _random(3, *SHAPE, seed=4)
    inputs = {n: batch for n in program.graph.nodes if n.op == "placeholder"}
    inside = [n for n in program.graph.nodes if n.op in ("get_attr", "call_function")]
    (output,) = next(n for n in program.graph.nodes if n.op == "output").all_input_nodes
    got, want = Unrounded(program.module).stretch(inside, inputs, {})[output], outputs(program, batch)
    assert float(((got - want).norm() / want.norm()).detach()) < 0.03
    assert not torch.equal(got, want)


@pytest.fixture(scope="module")
def model() -> DigitsViT:
    torch.manual_seed(0)
    return DigitsViT(dim=32, depth=2).eval()


def _tiled(model: DigitsViT, count: int = 32) -> Program:
    program = through(captured(model, _random(2, *SHAPE)), TILED)
    return program.evolve(calibration=CalibrationStream(_random(count, *SHAPE, seed=1), (SHAPE,)))


def _weights(program: Program) -> dict[str, Tensor]:
    return {name: value for name, value in program.module.state_dict().items() if name.endswith("_int8")}


def _linears(program: Program) -> list[Node]:
    return [n for n in program.graph.nodes if n.target is torch.ops.aten.linear.default]


def _only_weights(quantized: Program, tiled: Program) -> Program:
    """The floating-point program with the weights and biases of the INT8 one."""
    program = tiled.fork()
    for i, (new, old) in enumerate(zip(_linears(program), _linears(quantized), strict=True)):
        weight = old.args[1]
        if weight.target is torch.ops.vitc.dequantize.default:
            integers, steps = (constant(quantized.module, n) for n in weight.args[:2])
            with program.graph.inserting_before(new):
                for j, value in ((1, integers * steps[:, None]), (2, constant(quantized.module, old.args[2]))):
                    program.module.register_buffer(f"int8_{i}_{j}", value)
                    new.update_arg(j, program.graph.get_attr(f"int8_{i}_{j}"))
    program.module.recompile()
    return program


@pytest.mark.parametrize("rounding", ["gptq", "adaround"])
def test_the_weights_share_of_the_models_error_falls(rounding: str, model: DigitsViT) -> None:
    tiled, images = _tiled(model), _random(64, *SHAPE, seed=2)
    plain = through(tiled, "quantize-int8{attention=false}")
    rounded = through(tiled, f"quantize-int8{{attention=false,rounding={rounding}}}")
    want = outputs(tiled, images)
    before, after = (float((outputs(_only_weights(p, tiled), images) - want).square().sum()) for p in (plain, rounded))
    assert after < 0.5 * before


def test_integers_change_and_scales_stay(model: DigitsViT) -> None:
    plain, rounded = through(_tiled(model), "smooth-activations,quantize-int8"), through(_tiled(model), GPTQ)
    changed = _weights(rounded)
    assert any(not torch.equal(value, changed[name]) for name, value in _weights(plain).items())
    state = rounded.module.state_dict()
    for name, value in plain.module.state_dict().items():
        if name.endswith("_scale"):
            assert torch.equal(value, state[name])
    assert [str(n.target) for n in plain.graph.nodes] == [str(n.target) for n in rounded.graph.nodes]
    lines = [note for note in rounded.journal[-1].notes if "rounded" in note]
    assert len(lines) == 8
    assert any("blocks.0.attn.qkv: rounded by GPTQ, error ×0." in line for line in lines)


def test_the_bias_belongs_to_the_rounded_weight(model: DigitsViT) -> None:
    """With the roundings known, the graph is built in one go: its biases are those that the search left."""
    once = through(_tiled(model), GPTQ)
    again = through(_tiled(model).evolve(calibration=None).calibrated(once.findings), GPTQ)
    torch.testing.assert_close(outputs(again), outputs(once), atol=0, rtol=0)
    plain = through(_tiled(model), "smooth-activations,quantize-int8").module.state_dict()
    corrected = {n: v for n, v in once.module.state_dict().items() if n.endswith("_corrected")}
    assert corrected
    assert not all(torch.equal(value, plain[name]) for name, value in corrected.items())


@pytest.mark.parametrize("rounding", ["gptq", "adaround"])
def test_the_same_seed_gives_the_same_integers(
    rounding: str, model: DigitsViT, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitc.passes.quantization.rounding.blockwise._STEPS", 20)
    first, second = (_weights(through(_tiled(model), f"quantize-int8{{rounding={rounding}}}")) for _ in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_adaround_says_for_each_block_what_it_gained(model: DigitsViT) -> None:
    program = through(_tiled(model), "smooth-activations,quantize-int8{rounding=adaround}")
    lines = [note for note in program.journal[-1].notes if "rounded" in note]
    assert [line.split(":")[0] for line in lines] == ["blocks.0", "blocks.1"]
    assert all("4 linears rounded by AdaRound, error ×0." in line for line in lines)


def test_a_convolution_is_rounded_to_the_nearest_and_says_so(model: DigitsViT) -> None:
    program = through(_tiled(model), "quantize-int8{convolutions=true,rounding=gptq}")
    assert "patch: rounded to the nearest, gptq is for linears" in program.journal[-1].notes


def test_a_block_that_gains_nothing_is_rounded_to_the_nearest(
    model: DigitsViT, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitc.passes.quantization.rounding.blockwise._RATE", 100.0)  # it only goes astray
    rounded, plain = (through(_tiled(model), f"quantize-int8{{rounding={name}}}") for name in ("adaround", "nearest"))
    assert [note for note in rounded.journal[-1].notes if note.startswith("blocks.0")] == [
        "blocks.0: rounded to the nearest"
    ]
    torch.testing.assert_close(outputs(rounded), outputs(plain), atol=0, rtol=0)


def test_one_image_is_enough_to_go_on(model: DigitsViT) -> None:
    assert torch.isfinite(outputs(through(_tiled(model, count=1), GPTQ))).all()


def test_the_images_are_a_bounded_sample(model: DigitsViT, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitc.passes.quantization.rounding.rounding_sample._TOKENS", 17 * 12)
    sample = RoundingSample(_tiled(model, count=40), seed=0)
    assert sample.images.seen == 40
    assert sum(batch[0].shape[0] for batch in sample.batches) <= max(12, sample.images.chunk)


def test_a_walk_keeps_what_is_read_ahead_only(model: DigitsViT) -> None:
    program = _tiled(model)
    batch = _random(3, *SHAPE, seed=4)
    output = next(n for n in program.graph.nodes if n.op == "output")
    (last,) = output.all_input_nodes
    stops = _linears(program)
    walk = Walk(program.module, [(batch,)])
    for stop in stops:
        (values,) = walk.advance(stop)
        computed = [n for n in values if n.op == "call_function"]
        assert stop.args[0] in computed
        assert len(computed) <= 2  # the residual and the linear's input
    assert last is stops[-1]


def test_refusals(model: DigitsViT) -> None:
    with pytest.raises(
        PipelineError, match="unknown value of option 'rounding' .* 'gtpq'.* known: adaround, gptq, nearest"
    ):
        through(_tiled(model), "quantize-int8{rounding=gtpq}")
    known = through(_tiled(model), "quantize-int8")
    blind = _tiled(model).evolve(calibration=None).calibrated(known.findings)
    with pytest.raises(CalibrationError, match="rounding=gptq needs calibration data for 8 linears and there is none"):
        through(blind, "quantize-int8{rounding=gptq}")
