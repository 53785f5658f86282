"""compile(prune=, distill=): prune, learn back, quantize, in one call."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import vitc
from vitc.demo.digits import DigitsViT
from vitc.errors import InputError

IMAGES = torch.randn(64, 1, 8, 8)


def _teacher() -> torch.nn.Module:
    torch.manual_seed(0)
    model = DigitsViT(32, 2).eval()
    model.head.weight.data *= 10  # outputs worth learning
    return model


def _error(compiled: Any, model: torch.nn.Module) -> float:
    with torch.no_grad():
        return float((compiled(IMAGES) - model(IMAGES)).square().mean())


def test_prune_distill_quantize_in_one_call() -> None:
    model = _teacher()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    wanted = {"data": IMAGES, "stages": (vitc.Features(epochs=4), vitc.Logits(epochs=12, soft=1.0, rate=3e-3))}
    common = {
        "example_inputs": IMAGES[:2],
        "calibration": IMAGES,
        "prune": {"params": 0.3, "criterion": "l1"},
        "quantize": "int8",
    }
    recovered = vitc.compile(model, "cpu", distill=wanted, **common)
    pruned = vitc.compile(model, "cpu", **common)
    assert _error(recovered, model) < 0.5 * _error(pruned, model)
    assert recovered.program.stage == "quantized"
    assert recovered.report.parameters == pruned.report.parameters
    assert "distilled: features: 8 steps, loss " in str(recovered.report)
    assert "distilled" not in str(pruned.report)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"distill": IMAGES}, "distill= learns back what prune= takes away; pass prune= too"),
        (
            {"prune": 0.2, "distill": {"data": IMAGES, "epochs": 3}},
            "unknown option of distill 'epochs'; known: checkpoint, config, data",
        ),
        ({"prune": 0.2, "distill": {"stages": ()}}, "distill has no data, only 'stages'; add 'data'"),
    ],
)
def test_refusals(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        vitc.plan(_teacher(), "cpu", example_inputs=IMAGES[:2], **arguments)
