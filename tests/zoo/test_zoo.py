"""The zoo: capture → canonical → tiled → ONNX → ONNX Runtime gives what eager PyTorch gives, at batch 1 and 3.

Weights are random and then perturbed by seeded noise: many models give about zero at their default initialisation, and
identical initialisers hide a mixed-up weight.
"""

from __future__ import annotations

from typing import Any

import onnx
import onnx.inliner
import pytest
import torch
from torch.utils._pytree import tree_leaves
from zoo_models import ZOO, perturbed

import vitc.targets
from vitc.capture import capture
from vitc.compiler import CANONICAL
from vitc.lowering.onnx.model import lower
from vitc.pipeline import parse_pipeline, run_pipeline

ort = pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.slow
PIPELINE = ",".join((*CANONICAL, "tile-attention"))


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


@pytest.mark.parametrize("name", ZOO)
def test_onnx_runtime_gives_what_eager_gives(name: str) -> None:
    make, fused = ZOO[name]
    model = perturbed(make)
    keyword = name.startswith("hf-")
    program = run_pipeline(capture(model, vitc.targets.load("cpu")), parse_pipeline(PIPELINE))
    attentions = [n for n in program.graph.nodes if n.target is torch.ops.vitc.attention.default]
    lowered = lower(program)
    onnx.checker.check_model(lowered.proto)
    session = ort.InferenceSession(
        onnx.inliner.inline_local_functions(lowered.proto).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    for batch in (1, 3):
        images = torch.randn(batch, *program.example_inputs[0].shape[1:], generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            wanted = _tensors(model(pixel_values=images) if keyword else model(images))
        got = session.run(None, {lowered.inputs[0].name: images.numpy()})
        assert len(got) == len(wanted)
        for one, want in zip(got, wanted, strict=True):
            assert one.shape == tuple(want.shape)
            cosine = torch.cosine_similarity(torch.from_numpy(one).flatten().double(), want.flatten().double(), dim=0)
            assert cosine >= 0.9999
    assert len(attentions) >= fused
