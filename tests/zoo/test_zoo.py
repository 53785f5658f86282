"""The zoo: `vitc.compile(model, "cpu")` gives what eager PyTorch gives, at batch 1 and 3, from one compilation."""

from __future__ import annotations

import onnx
import pytest
import torch
from zoo_models import ZOO, perturbed

import vitc
from vitc.graph.structure import tensors_of

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ZOO)
def test_the_compiled_model_gives_what_eager_gives(name: str) -> None:
    make, fused = ZOO[name]
    model = perturbed(make)
    compiled = vitc.compile(model, "cpu")
    onnx.checker.check_model(compiled.onnx.proto)
    attentions = sum(n.target is torch.ops.vitc.attention.default for n in compiled.program.graph.nodes)
    assert attentions >= fused
    (spec,) = compiled.onnx.inputs
    for batch in (1, 3):
        images = torch.randn(batch, *map(int, spec.shape[1:]), generator=torch.Generator().manual_seed(batch))
        inputs = {"pixel_values": images} if name.startswith("hf-") else {spec.name: images}
        with torch.no_grad():
            wanted = model(**inputs)
        got = compiled(**inputs)
        assert type(got) is type(wanted)
        for one, want in zip(tensors_of(got), tensors_of(wanted), strict=True):
            assert one.shape == want.shape
            cosine = torch.cosine_similarity(one.flatten().double(), want.flatten().double(), dim=0)
            assert cosine >= 0.9999
