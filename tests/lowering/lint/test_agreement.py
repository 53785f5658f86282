"""Prediction against the layer log of a real TensorRT-RTX: of vitc's own models, and of what other tools write."""

from __future__ import annotations

import itertools

import foreign_vit as f
import pytest
import torch

import vitc
from vitc.errors import BuildError
from vitc.lowering.lint import compare, lint
from vitc.lowering.lint.agreement import Difference
from vitc.lowering.tensorrt import Kind, LayerTable, build_engine

RTX = "tensorrt-rtx 1.7"

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed: nothing is proved about TensorRT here")
timm = pytest.importorskip("timm")

# name, options, image size; INT8 GEMMs, plugins, FP16 GEMMs (heads).
MODELS = {
    "ViT": ("vit_tiny_patch16_224", {"depth": 2}, 64, 8, 2, 1),
    "DeiT": ("deit_tiny_distilled_patch16_224", {"depth": 2}, 64, 8, 2, 2),
    "DINOv2": ("vit_small_patch14_dinov2", {"depth": 2}, 56, 8, 2, 0),
    "EVA-02": ("eva02_tiny_patch14_224", {"depth": 2}, 56, 8, 2, 0),
    "Swin": ("swin_tiny_patch4_window7_224", {"depths": (2, 2), "embed_dim": 64, "num_heads": (2, 4)}, 56, 17, 4, 1),
}


@pytest.mark.parametrize("name", MODELS)
def test_own_models_in_int8(name: str) -> None:
    model, options, size, int8, plugins, half = MODELS[name]
    module = timm.create_model(model, pretrained=False, img_size=size, **options).eval()
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    plan = vitc.plan(module, "orin", example_inputs=images, calibration=images)
    report = plan.lint(RTX)
    assert not report.errors
    expected = {"plugin": plugins, "INT8 GEMM": int8, "FP16 GEMM": half, "FP convolution": 1}
    assert report.summary() == {kind: n for kind, n in expected.items() if n}
    table = plan.prove().layers
    agreement = compare(report, table)
    assert agreement.agrees, str(agreement)
    assert agreement.actual == report.summary()
    # Not one node only of each kind: the layers themselves are as many.
    assert {kind: n for kind, n in table.summary().items() if kind in report.summary()} == report.summary()


STYLES = {
    "ModelOpt": f.MODELOPT,
    "ModelOpt, residual": f.MODELOPT_RESIDUAL,
    "NNCF": f.NNCF,
    "ORT, products": f.ORT_GEMMS,
    "decomposed LayerNorm, FP16": f.DECOMPOSED_HALF,
    "FP32": f.Foreign(),
    "FP16": f.Foreign(dtype="float16"),
    "FP16 with a bias": f.Foreign(dtype="float16", bias=True),
    "FP16 scales": f.Foreign(f.LINEAR, dtype="float16"),
    "one scale a weight": f.Foreign(f.LINEAR, dtype="float16", weights="tensor"),
    "transposed weights": f.Foreign(f.LINEAR, transposed=True),
    "wrong axis": f.Foreign(f.LINEAR, weights="wrong"),
    "weights only": f.Foreign(f.LINEAR, activations="none"),
    "activations only": f.Foreign(f.LINEAR, weights="none"),
    "activations per channel": f.Foreign(f.LINEAR, activations="channel"),
    "patch, wrong axis": f.Foreign(frozenset({"patch"}), weights="wrong"),
}


@pytest.mark.parametrize("name", STYLES)
def test_foreign_styles(name: str) -> None:
    agree(STYLES[name])


PLACES = ("qk", "probs", "v", "scores")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_every_way_to_quantize_inside_attention(dtype: str) -> None:
    for count in range(1, 5):
        for places in itertools.combinations(PLACES, count):
            agree(f.Foreign(frozenset(places), dtype=dtype))


REFUSED = {
    "NNCF, transformer": f.NNCF_TRANSFORMER,
    "ORT, everything": f.ORT_ALL,
    "two types of scales": f.Foreign(f.LINEAR, dtype="float16", weight_scale_dtype="float32"),
    "INT32 biases": f.Foreign(f.LINEAR, int32_bias=True),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    model = f.foreign_vit(REFUSED[name])
    assert lint(model, "rtx-3090", engine=RTX).refused
    with pytest.raises(BuildError):
        build_engine(model.SerializeToString(), capability="SM86")


def agree(style: f.Foreign) -> None:
    model = f.foreign_vit(style)
    report = lint(model, "rtx-3090", engine=RTX)
    assert not report.refused
    agreement = compare(report, build_engine(model.SerializeToString(), capability="SM86").layers)
    assert agreement.agrees, f"{style}: {agreement}"


def test_a_difference_is_told() -> None:
    """Against an engine without layers nothing that was predicted is there."""
    report = lint(f.foreign_vit(f.Foreign(dtype="float16")), "rtx-3090", engine=RTX)
    agreement = compare(report, LayerTable(()))
    assert not agreement.agrees
    assert agreement.differences[0] == Difference("/patch_embed/Conv", Kind.FP_CONVOLUTION, None)
    assert str(agreement).splitlines()[:2] == [
        "prediction and layer log differ on 8 of 8 nodes, 0 copies:",
        "  /patch_embed/Conv: predicted FP convolution, the engine has no such layer",
    ]
    assert agreement.to_dict()["predicted"] == {"fused attention": 2, "FP16 GEMM": 5, "FP convolution": 1}
