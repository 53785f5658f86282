"""Labels, boxes and preprocessing as the zoos' own configs say them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vitc
from vitc.calibration.preprocessing import Preprocessing
from vitc.frontend.model_config import infer_preprocessing
from vitc.frontend.model_task import infer_task, preprocessing_of_processor
from vitc.frontend.torchvision_import import ensure_torchvision_imports
from vitc.task import Classification, Detection

ensure_torchvision_imports()
timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")

SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}


def _yolos() -> torch.nn.Module:
    config = transformers.YolosConfig(
        **SMALL, image_size=[48, 64], num_detection_tokens=7, id2label={0: "car", 1: "bus"}, label2id={}
    )
    return transformers.YolosForObjectDetection(config).eval()  # type: ignore[no-any-return]


def _vit(**changes: object) -> torch.nn.Module:
    config = transformers.ViTConfig(**SMALL, image_size=32, patch_size=16, id2label={0: "cat", 1: "dog"}, **changes)
    return transformers.ViTForImageClassification(config).eval()  # type: ignore[no-any-return]


def test_timm_names_imagenets_labels_where_the_head_is_imagenets() -> None:
    task = infer_task(timm.create_model("vit_tiny_patch16_224", depth=1))
    assert isinstance(task, Classification)
    assert task.labels[0] == "tench, Tinca tinca"
    assert infer_task(timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=5)) == Classification()
    assert infer_task(timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=0)) is None


def test_transformers_configs_name_labels_and_scores() -> None:
    assert infer_task(_vit()) == Classification(("cat", "dog"))
    several = infer_task(_vit(problem_type="multi_label_classification"))
    assert several == Classification(("cat", "dog"), score="sigmoid")
    assert infer_task(_yolos()) == Detection(("car", "bus"), score="softmax")


def test_torchvisions_weights_name_labels_and_transforms() -> None:
    from torchvision.models import ViT_B_16_Weights

    model = torch.nn.Linear(2, 2)
    model.vitc_weights = ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1  # type: ignore[assignment]
    task = infer_task(model)
    assert isinstance(task, Classification)
    assert len(task.labels) == 1000
    assert infer_preprocessing(model) == Preprocessing(
        (384, 384), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 1.0, "bicubic"
    )


def test_a_model_without_a_config_has_no_task() -> None:
    assert infer_task(torch.nn.Linear(2, 2)) is None


@pytest.mark.parametrize("name", ["ViTImageProcessorPil", "ConvNextImageProcessorPil", "DeiTImageProcessorPil"])
def test_it_is_what_the_image_processor_does(name: str, tmp_path: Path) -> None:
    processor = getattr(transformers, name)()
    config = json.loads(processor.to_json_string())
    y, x = np.mgrid[:300, :410]
    waves = np.stack([128 + 100 * np.sin(x / 17 + c) * np.cos(y / 21 - c) for c in range(3)], -1)
    photo = Image.fromarray(waves.astype(np.uint8))
    want = np.asarray(processor(photo, return_tensors="np")["pixel_values"][0])
    ours = preprocessing_of_processor(config, want.shape[1:])  # type: ignore[arg-type]
    assert ours is not None
    np.testing.assert_allclose(ours(photo), want, atol=2e-2)  # a pixel of 8 bits may round otherwise


def test_a_folder_with_a_processor_is_read(tmp_path: Path) -> None:
    _vit().save_pretrained(tmp_path)
    config = {"size": {"height": 99, "width": 99}, "resample": 3, "image_mean": [0.1] * 3, "image_std": [0.2] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    model = transformers.ViTForImageClassification.from_pretrained(tmp_path).eval()
    assert infer_preprocessing(model) == Preprocessing((32, 32), (0.1,) * 3, (0.2,) * 3, 1.0, "bicubic", "stretch")


def test_a_processor_that_keeps_proportions_becomes_a_letterbox() -> None:
    ours = preprocessing_of_processor(
        {"size": {"shortest_edge": 800, "longest_edge": 1333}, "do_rescale": False, "do_normalize": False}, (48, 64)
    )
    assert ours == Preprocessing((48, 64), interpolation="bilinear", fit="letterbox", rescale=1.0)
    assert preprocessing_of_processor({"resample": 4}, (8, 8)) is None


@pytest.mark.slow
def test_the_task_travels_in_the_bundle(tmp_path: Path) -> None:
    bundle = vitc.compile(_yolos(), "cpu").save(tmp_path / "yolos")
    assert bundle.manifest.task == Detection(("car", "bus"), score="softmax")
