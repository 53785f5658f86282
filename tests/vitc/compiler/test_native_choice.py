"""Which pipeline and engine compile(target="cpu") takes for INT8, with and without the native engine."""

from __future__ import annotations

import pytest
import torch

import vitc
from vitc.compiler import planning
from vitc.demo.digits import DigitsViT
from vitc.lowering.cpu import native_refusal
from vitc.lowering.cpu.native.library import unavailable

IMAGES = torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class WithMask(torch.nn.Module):
    """Attention with a bias, which the native engine does not take."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = torch.nn.Linear(32, 96), torch.nn.Linear(32, 32)
        self.register_buffer("bias", torch.zeros(1, 2, 5, 5).uniform_(-1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).reshape(x.shape[0], 5, 3, 2, 16).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=self.bias)
        return x + self.proj(mixed.transpose(1, 2).reshape(x.shape[0], 5, 32))


def test_attention_is_int8_where_the_native_engine_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    model = DigitsViT(depth=2).eval()
    monkeypatch.setattr(planning, "native_refusal", lambda: None)
    made = vitc.plan(model, "cpu", example_inputs=IMAGES[:2], calibration=IMAGES)
    assert "attention=false" not in made.report.pipeline
    assert native_refusal(made.onnx.proto) == native_refusal()  # nothing about the graph

    monkeypatch.setattr(planning, "native_refusal", lambda: "no compiler")
    made = vitc.plan(model, "cpu", example_inputs=IMAGES[:2], calibration=IMAGES)
    assert "quantize-int8{attention=false" in made.report.pipeline


def test_attention_stays_real_where_the_engine_has_not_its_form(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 5, 32)
    monkeypatch.setattr(planning, "native_refusal", lambda: None)
    made = vitc.plan(WithMask().eval(), "cpu", example_inputs=x[:2], calibration=x)
    assert "quantize-int8{attention=false" in made.report.pipeline


@pytest.mark.skipif(native_refusal() is not None, reason=str(native_refusal() or unavailable()))
def test_the_report_names_the_engine() -> None:
    model = DigitsViT(depth=2).eval()
    compiled = vitc.compile(model, "cpu", example_inputs=IMAGES[:2], calibration=IMAGES, quantize="int8")
    assert compiled.report.engine.startswith("native avx512_vnni")
    with torch.no_grad():
        want, got = model(IMAGES), compiled(IMAGES)
    assert torch.nn.functional.cosine_similarity(want.flatten(), got.flatten(), dim=0) > 0.99
