"""What a model's own config says of its outputs: labels of timm, transformers, torchvision; boxes of transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vitc.calibration.preprocessing import FILTERS, Preprocessing
from vitc.task import Classification, Detection, Task

# Trained with a cross entropy over the labels and 'no object'; all other detectors of transformers with a focal loss.
_SOFTMAX = ("detr", "yolos", "table-transformer")


def infer_task(model: torch.nn.Module) -> Task | None:
    """The task of a classifier or detector that a zoo made; None where its config does not tell."""
    weights = getattr(model, "vitc_weights", None)  # torchvision's own record, left by vitc.frontend.models
    if weights is not None and "categories" in weights.meta:
        return Classification(weights.meta["categories"])
    config = getattr(model, "config", None)
    if config is not None and hasattr(config, "id2label"):
        return _transformers(model, config)
    return _timm(model)


def _transformers(model: torch.nn.Module, config: Any) -> Task | None:
    kind = type(model).__name__
    if kind.endswith("ForImageClassification"):
        several = getattr(config, "problem_type", None) == "multi_label_classification"
        return Classification(config.id2label, score="sigmoid" if several else "softmax")
    if kind.endswith("ForObjectDetection"):
        softmax = config.model_type in _SOFTMAX or getattr(config, "use_focal_loss", True) is False
        return Detection(config.id2label, score="softmax" if softmax else "sigmoid")
    return None


def _timm(model: torch.nn.Module) -> Task | None:
    """A classifier with the head that its own config names; ImageNet's names where it was trained on that."""
    config = getattr(model, "pretrained_cfg", None)
    classes = getattr(model, "num_classes", 0)
    if not isinstance(config, Mapping) or "num_classes" not in config or not classes:
        return None
    if config.get("label_names") and len(config["label_names"]) == classes:
        return Classification(config["label_names"])
    if config["num_classes"] != classes:
        return Classification()
    from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset(model)
    if not subset:
        return Classification()
    info = ImageNetInfo(subset)
    return Classification([info.index_to_description(i) for i in range(classes)])


def processor_config(model: torch.nn.Module) -> Mapping[str, Any] | None:
    """transformers' preprocessor_config.json of the model's checkpoint, from its folder or the local cache."""
    name = getattr(getattr(model, "config", None), "_name_or_path", "")
    if not name:
        return None
    path = Path(name) / "preprocessor_config.json"
    if not path.is_file():
        from huggingface_hub import try_to_load_from_cache

        try:
            found = try_to_load_from_cache(name, "preprocessor_config.json")
        except ValueError:  # no name of a repository: the model was made from a folder that is gone
            return None
        if not isinstance(found, str):
            return None
        path = Path(found)
    config = json.loads(path.read_text())
    return config if isinstance(config, Mapping) else None


def preprocessing_of_processor(config: Mapping[str, Any], size: tuple[int, int]) -> Preprocessing | None:
    """The preprocessing of an image processor's config for an input of `size` (height, width).

    A processor that keeps an image's proportions within a longest edge gives pictures of many sizes; an engine takes
    one: those are letterboxed into it. None for a processor that does something else.
    """
    interpolation = next((name for name, code in FILTERS.items() if code == config.get("resample", 2)), None)
    if interpolation is None:
        return None
    wanted = config.get("size")
    wanted = {"shortest_edge": wanted} if isinstance(wanted, int) else wanted or {}
    crop, fit = 1.0, "stretch"
    if config.get("do_center_crop"):
        cut = config.get("crop_size", size[0])
        cut = cut if isinstance(cut, int) else cut["height"]
        fit = "crop" if "shortest_edge" in wanted else "stretch"
        crop = min(1.0, cut / wanted.get("shortest_edge", wanted.get("height", cut)))
    elif "longest_edge" in wanted or "max_height" in wanted:
        fit = "letterbox"
    elif "shortest_edge" in wanted:
        # ConvNeXt's: below 384 the shorter edge becomes size / crop_pct and the middle is taken.
        fit, crop = ("crop", config.get("crop_pct") or 1.0) if wanted["shortest_edge"] < 384 else ("stretch", 1.0)
    normalize = config.get("do_normalize", True)
    return Preprocessing(
        size=size,
        mean=tuple(config.get("image_mean") or (0.5,) * 3) if normalize else (0.0,) * 3,
        std=tuple(config.get("image_std") or (0.5,) * 3) if normalize else (1.0,) * 3,
        crop=crop,
        interpolation=interpolation,
        fit=fit,
        rescale=config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1.0,
    )


def preprocessing_of_weights(weights: Any) -> Preprocessing | None:
    """torchvision's transforms of its weights: resize, centre crop, normalize."""
    transforms = weights.transforms()
    if not {"crop_size", "resize_size", "mean", "std", "interpolation"} <= set(vars(transforms)):
        return None
    size = transforms.crop_size[0]
    return Preprocessing(
        size=(size, size),
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
        crop=min(1.0, size / transforms.resize_size[0]),
        interpolation=transforms.interpolation.value,
    )
