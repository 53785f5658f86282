"""Models by name: each form, and each refusal."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vitc.errors import InputError
from vitc.frontend.models import load_model

_CONFIG = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
}


def test_a_transformers_model_has_the_head_its_config_names(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    transformers.ViTForImageClassification(transformers.ViTConfig(**_CONFIG, num_labels=5)).save_pretrained(tmp_path)
    model = load_model(f"hf:{tmp_path}")
    assert isinstance(model, transformers.ViTForImageClassification)
    assert not model.training
    assert isinstance(load_model(f"hf:{tmp_path}", pretrained=False), transformers.ViTForImageClassification)


def test_a_transformers_config_without_architectures_gives_the_bare_model(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    transformers.ViTConfig(**_CONFIG).save_pretrained(tmp_path)
    assert isinstance(load_model(f"hf:{tmp_path}", pretrained=False), transformers.ViTModel)


def test_a_factory_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "import torch\ndef make():\n    return torch.nn.Linear(2, 3)\ndef number():\n    return 3\n"
    )
    assert isinstance(load_model(f"{tmp_path}/own.py:make"), torch.nn.Linear)
    with pytest.raises(InputError, match="unknown factory in .* 'maik'.*make"):
        load_model(f"{tmp_path}/own.py:maik")
    with pytest.raises(InputError, match=r"own.py:number gave a int, not a torch.nn.Module"):
        load_model(f"{tmp_path}/own.py:number")
    with pytest.raises(InputError, match=r"there is no file .*none\.py"):
        load_model(f"{tmp_path}/none.py:make")


def test_an_exported_program(tmp_path: Path) -> None:
    exported = torch.export.export(torch.nn.Linear(2, 3), (torch.randn(4, 2),))
    torch.export.save(exported, tmp_path / "linear.pt2")
    assert isinstance(load_model(str(tmp_path / "linear.pt2")), torch.export.ExportedProgram)
    with pytest.raises(InputError, match=r"there is no file .*none\.pt2.*torch.export.save"):
        load_model(str(tmp_path / "none.pt2"))


@pytest.mark.parametrize("name", ["vit_base", "keras:vit", "timm:"])
def test_a_name_of_no_known_form(name: str) -> None:
    with pytest.raises(InputError, match="the forms are timm:NAME, hf:NAME, torchvision:NAME"):
        load_model(name)


def test_an_unknown_name_of_a_zoo_offers_the_nearest() -> None:
    pytest.importorskip("timm")
    with pytest.raises(InputError, match="unknown timm model 'vit_base_patch16_225'.*vit_base_patch16_224"):
        load_model("timm:vit_base_patch16_225")
