"""What a model's own config says: timm, transformers and torchvision tell the inputs and their preprocessing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from vitc.calibration.preprocessing import FILTERS, Preprocessing
from vitc.errors import InputError
from vitc.frontend.model_task import preprocessing_of_processor, preprocessing_of_weights, processor_config


def infer_example_inputs(model: torch.nn.Module) -> torch.Tensor | dict[str, torch.Tensor]:
    """A seeded normal tensor [2, C, H, W] (or the keyword inputs) that the model takes.

    Raises InputError, with the remedy, for a model without a config that says its image size.
    """
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    size = _timm(model) or _torchvision(model)
    if size is not None:
        return _noise((_channels(model, size[0]), *size[1:])).to(dtype)
    config = getattr(model, "config", None)
    if config is not None:
        return {name: t.to(dtype) for name, t in _transformers(model, config).items()}
    raise InputError(
        f"{type(model).__name__} has no config that tells its input size; "
        "pass example_inputs=torch.randn(2, 3, 224, 224), or a tuple or dict of what forward takes"
    )


def _channels(model: torch.nn.Module, told: int) -> int:
    """What the first convolution takes: in_chans= overrides the pretrained config."""
    first = next((m for m in model.modules() if isinstance(m, torch.nn.Conv2d)), None)
    return told if first is None else first.in_channels


def _noise(size: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(2, *size, generator=torch.Generator().manual_seed(0))


def _timm(model: torch.nn.Module) -> tuple[int, ...] | None:
    config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    config = config if isinstance(config, Mapping) else getattr(config, "__dict__", {})
    embed = getattr(model, "patch_embed", None)
    img_size = getattr(embed, "img_size", None)
    if img_size is not None and config.get("input_size"):  # img_size= overrides the pretrained config
        return (config["input_size"][0], *img_size)
    return tuple(config["input_size"]) if config.get("input_size") else None


def _torchvision(model: torch.nn.Module) -> tuple[int, ...] | None:
    if not type(model).__module__.startswith("torchvision."):
        return None
    size = getattr(model, "image_size", 224)
    return (3, size, size)


def _transformers(model: torch.nn.Module, config: Any) -> dict[str, torch.Tensor]:
    vision = getattr(config, "vision_config", config)
    size = getattr(vision, "image_size", None)
    name = getattr(model, "main_input_name", "pixel_values")
    if size is None or name != "pixel_values":
        raise InputError(
            f"the config of {type(model).__name__} does not tell the shape of its input {name!r}; pass "
            f"example_inputs={{{name!r}: …}} with tensors as its forward takes them"
        )
    height, width = (size, size) if isinstance(size, int) else tuple(size)
    shape = (getattr(vision, "num_channels", 3), height, width)
    frames = getattr(vision, "num_frames", None)
    return {name: _noise((frames, *shape) if frames else shape)}


def infer_preprocessing(model: torch.nn.Module) -> Preprocessing | None:
    """What a timm model's config, transformers' preprocessor_config.json or torchvision's weights say; None where
    nothing does."""
    weights = getattr(model, "vitc_weights", None)
    if weights is not None:
        return preprocessing_of_weights(weights)
    processor = processor_config(model)
    if processor is not None:
        _, _, height, width = next(iter(infer_example_inputs(model).values())).shape
        return preprocessing_of_processor(processor, (height, width))
    config = getattr(model, "pretrained_cfg", None)
    if not isinstance(config, Mapping) or not {"mean", "std", "input_size"} <= set(config):
        return None
    size = getattr(getattr(model, "patch_embed", None), "img_size", None) or config["input_size"][1:]
    interpolation = config.get("interpolation", "bicubic")
    return Preprocessing(
        size=(int(size[0]), int(size[1])),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        crop=float(config.get("crop_pct") or 1.0),
        interpolation=interpolation if interpolation in FILTERS else "bicubic",
    )
