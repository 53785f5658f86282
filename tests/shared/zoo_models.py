"""Models of timm, transformers and torchvision, small where their constructors allow it.

Weights are random and then perturbed by seeded noise: many models give about zero at their default initialization, and
identical initializers hide a mixed-up weight.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")
torchvision = pytest.importorskip("torchvision")


def _timm(name: str, **options: Any) -> Callable[[], torch.nn.Module]:
    return lambda: timm.create_model(name, **options)


def _hf(name: str, config: str, **options: Any) -> Callable[[], torch.nn.Module]:
    return lambda: getattr(transformers, name)(getattr(transformers, config)(**options))


def _swin(block: str, merging: str) -> Callable[[], torch.nn.Module]:
    swin = torchvision.models.swin_transformer
    parts = {"block": getattr(swin, block), "downsample_layer": getattr(swin, merging)}
    return lambda: swin.SwinTransformer([4, 4], 32, [2, 2], [2, 4], [7, 7], **parts)


_SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
_SWIN = {"depths": [2, 2], "num_heads": [2, 4], "embed_dim": 32}

#: id → (constructor, least number of attentions that must have been fused).
ZOO: dict[str, tuple[Callable[[], torch.nn.Module], int]] = {
    "timm-vit": (_timm("vit_tiny_patch16_224", depth=2), 2),
    "timm-vit-gap-384": (_timm("vit_tiny_patch16_384", depth=1, global_pool="avg", class_token=False), 1),
    "timm-deit-distilled": (_timm("deit_tiny_distilled_patch16_224", depth=2), 2),
    "timm-deit3": (_timm("deit3_small_patch16_224", depth=1), 1),
    "timm-dinov2": (_timm("vit_small_patch14_dinov2", depth=1, img_size=224), 1),
    "timm-dinov2-registers": (_timm("vit_small_patch14_reg4_dinov2", depth=1, img_size=224), 1),
    "timm-dinov3": (_timm("vit_small_patch16_dinov3", depth=1), 1),
    "timm-beit": (_timm("beit_base_patch16_224", depth=1), 1),
    "timm-eva02": (_timm("eva02_tiny_patch14_224", depth=2), 2),
    "timm-clip": (_timm("vit_base_patch32_clip_224", depth=1), 1),
    "timm-siglip": (_timm("vit_base_patch16_siglip_224", depth=1), 2),
    "timm-flexivit": (_timm("flexivit_small", depth=1), 1),
    "timm-samvit": (_timm("samvit_base_patch16_224", depth=2, global_attn_indexes=(1,)), 2),
    "timm-swin": (_timm("swin_tiny_patch4_window7_224", depths=(2, 2), num_heads=(3, 6)), 4),
    "timm-swinv2": (_timm("swinv2_tiny_window8_256", depths=(2, 2), num_heads=(3, 6)), 4),
    "timm-pvt-v2": (_timm("pvt_v2_b0"), 8),
    "timm-twins": (_timm("twins_svt_small", depths=(1, 1, 2, 2)), 6),
    "timm-hiera": (_timm("hiera_tiny_224", stages=(1, 1, 2, 1)), 5),
    "timm-maxvit": (_timm("maxvit_nano_rw_256", img_size=256), 10),
    "timm-vitamin": (_timm("vitamin_small_224"), 14),
    "timm-aimv2": (_timm("aimv2_large_patch14_224", depth=1), 1),
    "timm-levit": (_timm("levit_128s"), 0),
    "timm-mobilevit": (_timm("mobilevit_xxs"), 9),
    "timm-cait": (_timm("cait_xxs24_224", depth=2), 1),
    "timm-xcit": (_timm("xcit_nano_12_p16_224", depth=2), 1),
    "timm-tiny-vit": (_timm("tiny_vit_5m_224"), 10),
    "timm-efficientformer": (_timm("efficientformer_l1"), 0),
    "timm-convit": (_timm("convit_tiny"), 0),
    "hf-vit": (_hf("ViTForImageClassification", "ViTConfig", **_SMALL), 2),
    "hf-deit-teacher": (_hf("DeiTForImageClassificationWithTeacher", "DeiTConfig", **_SMALL), 2),
    "hf-dinov2": (_hf("Dinov2ForImageClassification", "Dinov2Config", image_size=224, **_SMALL), 2),
    "hf-dinov2-registers": (
        _hf("Dinov2WithRegistersForImageClassification", "Dinov2WithRegistersConfig", image_size=224, **_SMALL), 2),
    "hf-beit": (_hf("BeitForImageClassification", "BeitConfig", use_relative_position_bias=True, **_SMALL), 2),
    "hf-clip": (_hf("CLIPVisionModel", "CLIPVisionConfig", **_SMALL), 2),
    "hf-siglip": (_hf("SiglipVisionModel", "SiglipVisionConfig", **_SMALL), 2),
    "hf-ijepa": (_hf("IJepaModel", "IJepaConfig", **_SMALL), 2),
    "hf-yolos": (_hf("YolosForObjectDetection", "YolosConfig", image_size=[128, 192], num_detection_tokens=10,
    **_SMALL), 2),
    "hf-vitdet": (_hf("VitDetModel", "VitDetConfig", hidden_size=64, num_hidden_layers=2, num_attention_heads=2), 2),
    "hf-segformer": (_hf("SegformerForSemanticSegmentation", "SegformerConfig", image_size=224), 8),
    "hf-swin": (_hf("SwinForImageClassification", "SwinConfig", **_SWIN), 4),
    "hf-data2vec": (_hf("Data2VecVisionModel", "Data2VecVisionConfig", **_SMALL), 2),
    "hf-swinv2": (_hf("Swinv2ForImageClassification", "Swinv2Config", **_SWIN), 4),
    "hf-dpt": (_hf("DPTForDepthEstimation", "DPTConfig", image_size=224, backbone_out_indices=[0, 1, 2, 3],
                   neck_hidden_sizes=[16, 32, 64, 64], fusion_hidden_size=32, **(_SMALL | {"num_hidden_layers": 4})),
                   4),
    "tv-vit": (lambda: torchvision.models.VisionTransformer(224, 16, 2, 2, 64, 128), 2),
    "tv-swin": (_swin("SwinTransformerBlock", "PatchMerging"), 4),
    "tv-swinv2": (_swin("SwinTransformerBlockV2", "PatchMergingV2"), 4),
}  # fmt: skip


def perturbed(make: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    torch.manual_seed(0)
    model = make()
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=noise) * 0.02)
    return model.eval()
