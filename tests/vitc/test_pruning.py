"""vitc.prune and compile(prune=…) from outside."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import vitc
from vitc.demo.digits import DigitsViT
from vitc.errors import InputError, PassError
from vitc.lowering.cpu.rates import measured_here
from vitc.pruning import replay_pruning
from vitc.targets import load

IMAGES = torch.randn(2, 1, 8, 8)


class TwoOutputs(torch.nn.Module):
    """A ViT that returns a dict, as transformers' models do."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = DigitsViT(32, 2, 4)

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.vit(pixels)
        return {"logits": logits, "top": logits.max(1).values}


def _vit(seed: int = 0, depth: int = 2) -> DigitsViT:
    torch.manual_seed(seed)
    return DigitsViT(32, depth, 4).eval()


def _prune(model: torch.nn.Module, budget: object = 0.3, **options: object) -> vitc.Pruned:
    return vitc.prune(model, budget, example_inputs=IMAGES, **options)  # type: ignore[arg-type]


def test_the_budget_is_met_and_the_module_trains() -> None:
    model = _vit()
    before = model.head.weight.clone()
    pruned = _prune(model)
    count = sum(p.numel() for p in pruned.module.parameters())
    assert 0.6 < count / sum(p.numel() for p in model.parameters()) <= 0.7
    optimizer = torch.optim.SGD(pruned.module.parameters(), lr=0.1)
    pruned.module.train()
    first = None
    for _ in range(5):
        loss = torch.nn.functional.cross_entropy(pruned.module(IMAGES.repeat(3, 1, 1, 1)), torch.arange(6))
        first = loss.item() if first is None else first
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < first
    torch.testing.assert_close(model.head.weight, before, rtol=0, atol=0)  # the user's model is left alone


def test_structure_and_names_are_the_models_own() -> None:
    model = TwoOutputs().eval()
    pruned = _prune(model)
    out = pruned.module(pixels=IMAGES)
    assert list(out) == ["logits", "top"]
    assert out["logits"].shape == (2, 10)
    assert {"vit.blocks.0.attn.qkv.weight", "vit.blocks.1.mlp.2.bias"} <= set(pruned.module.state_dict())


def test_state_dict_goes_through_safetensors(tmp_path: Path) -> None:
    model = _vit()
    pruned = _prune(model)
    for parameter in pruned.module.parameters():
        torch.nn.init.normal_(parameter)
    save_file(pruned.module.state_dict(), tmp_path / "weights.safetensors")
    pruned.plan.save(tmp_path / "plan.json")
    again = replay_pruning(_vit(seed=1), tmp_path / "plan.json", example_inputs=IMAGES)
    again.module.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    torch.testing.assert_close(again.module(IMAGES), pruned.module(IMAGES), rtol=0, atol=0)


def test_a_plan_is_replayed_on_another_checkpoint_of_the_same_model() -> None:
    plan = _prune(_vit()).plan
    assert replay_pruning(_vit(seed=1), plan, example_inputs=IMAGES).module(IMAGES).shape == (2, 10)
    with pytest.raises(PassError, match="made for another model: its graph has the fingerprint"):
        replay_pruning(_vit(depth=3), plan, example_inputs=IMAGES)


def test_steps_train_between() -> None:
    sizes = []
    pruned = _prune(_vit(), 0.4, steps=3, train=lambda m: sizes.append(sum(p.numel() for p in m.parameters())))
    assert len(sizes) == 2
    assert sizes[0] > sizes[1]
    assert len(pruned.plan.steps) == 3
    assert replay_pruning(_vit(seed=1), pruned.plan, example_inputs=IMAGES).module(IMAGES).shape == (2, 10)


@pytest.mark.parametrize(
    ("budget", "options", "message"),
    [
        ("a third", {}, "a pruning budget is a number, as 0.35, or a dict"),
        ({"param": 0.3}, {}, "unknown key of a pruning budget 'param'; .* did you mean 'params'"),
        ({"params": 0.3, "flops": 0.2}, {}, "names one of params, flops, latency; got params, flops"),
        ({"keep": ["head"]}, {}, "names one of params, flops, latency; got none"),
        ({"params": "a third"}, {}, "the params of a pruning budget is the share to take away, as 0.35; got 'a third'"),
        (0.3, {"steps": 0}, "steps is 0: one, or more together with train="),
        (0.3, {"steps": 2}, "steps is 2: one, or more together with train="),
    ],
)
def test_budgets_that_are_none(budget: object, options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        _prune(_vit(), budget, **options)


def test_compile_prunes_before_it_tiles() -> None:
    compiled = vitc.compile(_vit(), "cpu", example_inputs=IMAGES, prune={"params": 0.3, "kinds": ["mlp"]})
    assert "canonical,prune{ratio=0.3,kinds=[mlp]},tile-attention" in compiled.report.pipeline
    assert "pruned by l1 for cpu" in str(compiled.report)
    assert compiled(IMAGES).shape == (2, 10)
    plain = vitc.compile(_vit(), "cpu", example_inputs=IMAGES)
    assert compiled.report.parameters < 0.75 * plain.report.parameters
    assert any(line.startswith("pruning: pass prune=0.35") for line in plain.report.skipped)


def test_compile_takes_calibration_for_the_criterion() -> None:
    images = torch.randn(16, 1, 8, 8)
    compiled = vitc.compile(_vit(), "cpu", example_inputs=IMAGES, prune=0.3, calibration=images, quantize="int8")
    assert "pruned by obs for cpu" in str(compiled.report)
    assert compiled.program.stage == "quantized"


def test_a_cpu_is_measured_where_cuts_are_weighed() -> None:
    measured = measured_here(load("cpu"))
    assert _prune(_vit(), {"flops": 0.2}).program.target == measured
    own = "canonical,prune{ratio=0.01,of=latency,quantum=1},tile-attention"
    assert vitc.plan(_vit(), "cpu", example_inputs=IMAGES, pipeline=own).program.target == measured
    assert vitc.plan(_vit(), "cpu", example_inputs=IMAGES, pipeline="canonical,tile-attention").program.target == load(
        "cpu"
    )


def test_prune_beside_a_pipeline_is_refused() -> None:
    with pytest.raises(InputError, match="prune= and pipeline= exclude each other"):
        vitc.compile(_vit(), "cpu", example_inputs=IMAGES, prune=0.3, pipeline="drop-noops")


def test_data_without_labels_is_refused_where_gradients_are_needed() -> None:
    with pytest.raises(InputError, match="needs gradients needs labels: pass data=batches of"):
        _prune(_vit(), criterion="taylor", data=torch.randn(8, 1, 8, 8))
    with pytest.raises(InputError, match="are no classification; pass loss="):
        _prune(_vit(), criterion="taylor", data=[(torch.randn(8, 1, 8, 8), torch.zeros(8, 3))])


def test_a_loss_of_ones_own() -> None:
    data = [(torch.randn(8, 1, 8, 8), torch.randn(8, 10))]
    pruned = _prune(_vit(), criterion="taylor", data=data, loss=torch.nn.functional.mse_loss)
    assert pruned.plan.criterion == "taylor"


def test_a_generator_serves_pruning_and_then_calibration() -> None:
    batches = [IMAGES[:1].repeat(2, 1, 1, 1) + i for i in range(3)]
    options = {"example_inputs": IMAGES, "prune": {"params": 0.2, "criterion": "obs"}}
    once = vitc.plan(_vit(), "orin", calibration=iter(batches), **options)  # type: ignore[arg-type]
    listed = vitc.plan(_vit(), "orin", calibration=batches, **options)  # type: ignore[arg-type]
    assert once.program.findings.ranges == listed.program.findings.ranges
