"""Layers by name and index, in modules and in graphs, and what they compute."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vitc.demo.digits import DigitsViT
from vitc.distillation.batches import Batch
from vitc.distillation.layers import Layers, tapped
from vitc.errors import InputError
from vitc.frontend.capture import capture
from vitc.pipeline.default import CANONICAL
from vitc.pipeline.manager import run_pipeline
from vitc.pipeline.text import parse_pipeline
from vitc.targets import load

IMAGES = torch.randn(3, 1, 8, 8)
BATCH = Batch((IMAGES,), {}, None)


def _graph(model: torch.nn.Module, stage: str, images: torch.Tensor = IMAGES) -> torch.nn.Module:
    program = capture(model.eval(), load("cpu"), images)
    return program.module if stage == "captured" else run_pipeline(program, parse_pipeline(",".join(CANONICAL))).module


@pytest.mark.parametrize("stage", ["module", "captured", "canonical"])
def test_the_key_layer_is_what_a_hook_sees(stage: str) -> None:
    model = DigitsViT(16, 2).eval()
    seen: list[torch.Tensor] = []
    model.blocks[1].attn.register_forward_hook(lambda m, a, output: seen.append(output))
    want = model(IMAGES)
    given = model if stage == "module" else _graph(model, stage)
    layers = Layers(given, "student", BATCH)
    assert layers.attentions == ("blocks.0.attn", "blocks.1.attn")
    assert layers.path(-1) == "blocks.1.attn"
    output, features = tapped(given, [layers.path(-1)])(IMAGES)
    torch.testing.assert_close(output, want)
    torch.testing.assert_close(features[0], seen[0])


def test_a_tapped_graph_trains_the_graph() -> None:
    graph = _graph(DigitsViT(16, 1), "captured")
    view = tapped(graph, ["blocks.0"])
    view(IMAGES)[1][0].sum().backward()
    assert any(p.grad is not None for p in graph.parameters())


def test_outputs_keep_their_structure_in_a_graph() -> None:
    class Two(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Linear(4, 4)

        def forward(self, x: torch.Tensor, scale: torch.Tensor | None = None) -> dict[str, Any]:
            hidden = self.inner(x)
            return {"logits": hidden * 2, "nothing": None, "pair": (hidden, x)}

    x = torch.randn(2, 4)
    model = Two()
    output, (feature,) = tapped(_graph(model, "captured", x), ["inner"])(x)
    want = model(x)
    assert output["nothing"] is None
    torch.testing.assert_close(output["logits"], want["logits"])
    torch.testing.assert_close(output["pair"], want["pair"])
    torch.testing.assert_close(feature, model.inner(x))


@pytest.mark.parametrize("kind", ["timm", "timm unfused", "torchvision", "torch", "transformers"])
def test_attentions_of_the_zoos(kind: str) -> None:
    if kind.startswith("timm"):
        vit = pytest.importorskip("timm.models.vision_transformer")
        model = vit.VisionTransformer(img_size=16, patch_size=8, embed_dim=16, depth=2, num_heads=2)
        for block in model.blocks:
            block.attn.fused_attn = kind == "timm"
        want = ("blocks.0.attn", "blocks.1.attn")
    elif kind == "torchvision":
        vit = pytest.importorskip("torchvision.models.vision_transformer")
        model = vit.VisionTransformer(16, 8, 2, 2, 16, 32)
        want = tuple(f"encoder.layers.encoder_layer_{i}.self_attention" for i in range(2))
    elif kind == "torch":
        layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        model = torch.nn.Sequential(torch.nn.Flatten(1, 2), torch.nn.TransformerEncoder(layer, 2))
        want = ("1.layers.0.self_attn", "1.layers.1.self_attn")
    else:
        transformers = pytest.importorskip("transformers")
        config = transformers.ViTConfig(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            image_size=16,
            patch_size=8,
        )
        model = transformers.ViTModel(config)
        want = None
    images = torch.randn(2, 3, 16, 16) if kind != "torch" else torch.randn(2, 3, 4, 8)
    layers = Layers(model.eval(), "teacher", Batch((images,), {}, None))
    assert len(layers.attentions) == 2
    assert want is None or layers.attentions == want
    features = tapped(model, [layers.path(-1)])(images)[1]
    assert features[0].shape[0] == 2
    assert features[0].shape[-1] in (8, 16)


def test_soft_attention_by_an_nn_softmax() -> None:
    class Old(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.softmax = torch.nn.Linear(8, 24), torch.nn.Softmax(dim=-1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q, k, v = self.qkv(x).chunk(3, -1)
            return self.softmax(q @ k.transpose(-2, -1)) @ v

    model = torch.nn.Sequential(Old())
    x = torch.randn(2, 5, 8)
    assert Layers(model, "student", Batch((x,), {}, None)).attentions == ("0",)
    assert Layers(_graph(model, "captured", x), "student", Batch((x,), {}, None)).attentions == ("0",)


@pytest.mark.parametrize("graph", [False, True])
def test_unknown_layer_lists_the_known(graph: bool) -> None:
    model = DigitsViT(16, 1).eval()
    layers = Layers(_graph(model, "captured") if graph else model, "student", BATCH)
    with pytest.raises(
        InputError, match=r"unknown layer of the student 'blocks\.0\.atn'; known: .*did you mean 'blocks\.0\.attn'"
    ):
        layers.path("blocks.0.atn")


def test_unknown_index_says_how_many() -> None:
    with pytest.raises(
        InputError, match=r"the teacher has no attention of index 3; it has 2: blocks\.0\.attn, blocks\.1\.attn"
    ):
        Layers(DigitsViT(16, 2), "teacher", BATCH).path(3)
    with pytest.raises(InputError, match=r"index -1; it has none; name a layer by its path"):
        Layers(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)), "student", BATCH).path(-1)


def test_a_layer_that_does_not_run() -> None:
    model = DigitsViT(16, 1).eval()
    model.spare = torch.nn.Linear(2, 2)
    with pytest.raises(InputError, match="layer 'spare' did not run in the forward pass"):
        tapped(model, ["spare"])(IMAGES)
