"""A user's own weights: the forms that training scripts write, and what is said of those that do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from vitc.errors import InputError
from vitc.frontend.checkpoint import load_checkpoint
from vitc.frontend.models import load_model


def _model(classes: int = 3) -> torch.nn.Module:
    torch.manual_seed(classes)
    return torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.ReLU(), torch.nn.Linear(5, classes)).eval()


def _trained() -> torch.nn.Module:
    torch.manual_seed(9)
    model = _model()
    for parameter in model.parameters():
        parameter.data.normal_()
    return model


@pytest.mark.parametrize("home", [None, "state_dict", "model", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_what_training_scripts_save(tmp_path: Path, home: str | None, prefix: str) -> None:
    trained, model = _trained(), _model()
    state: Any = {prefix + name: tensor for name, tensor in trained.state_dict().items()}
    torch.save(state if home is None else {home: state, "epoch": 3}, tmp_path / "best.pth")
    load_checkpoint(model, tmp_path / "best.pth")
    x = torch.randn(2, 4)
    assert torch.equal(model(x), trained(x))


def test_safetensors(tmp_path: Path) -> None:
    trained, model = _trained(), _model()
    save_file(dict(trained.state_dict()), tmp_path / "best.safetensors")
    load_checkpoint(model, tmp_path / "best.safetensors")
    assert torch.equal(model[0].weight, trained[0].weight)  # type: ignore[index]


class _Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("touched"),))


def test_nothing_in_a_checkpoint_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": _Evil()}, tmp_path / "evil.pth")
    with pytest.raises(InputError, match="holds no weights that can be read without running code"):
        load_checkpoint(_model(), tmp_path / "evil.pth")
    assert not (tmp_path / "touched").exists()


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    torch.save(_model(7).state_dict(), tmp_path / "seven.pth")
    with pytest.raises(InputError, match=r"2.weight is \[7, 5\] in the file and \[3, 5\] in the model.*--num-classes"):
        load_checkpoint(_model(3), tmp_path / "seven.pth")
    torch.save({"0.weight": torch.zeros(5, 4), "other": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"the file lacks: 0.bias, 2.bias, 2.weight; the model has no: other"):
        load_checkpoint(_model(3), tmp_path / "other.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(InputError, match="holds no table of weights; save model.state_dict"):
        load_checkpoint(_model(3), tmp_path / "list.pth")
    (tmp_path / "broken.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{broken}")
    with pytest.raises(InputError, match="broken.safetensors"):
        load_checkpoint(_model(3), tmp_path / "broken.safetensors")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(InputError, match="holds no weights that can be read"):
        load_checkpoint(_model(3), tmp_path / "text.pth")
    with pytest.raises(InputError, match="there is no checkpoint"):
        load_checkpoint(_model(3), tmp_path / "nowhere.pth")


def test_a_fine_tuned_timm_model_by_name(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(1)
    tuned = timm.create_model("vit_tiny_patch16_224", num_classes=7, img_size=64, depth=12).eval()
    save_file(dict(tuned.state_dict()), tmp_path / "tuned.safetensors")
    model = load_model(
        "timm:vit_tiny_patch16_224", checkpoint=tmp_path / "tuned.safetensors", num_classes=7, size=64
    )  # fmt: skip
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(x), tuned(x))  # type: ignore[operator]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("{file}:make", {"num_classes": 3}, "num_classes is for models of a zoo, and .* is none: the factory decides"),
        ("{file}:sized", {}, r"sized in .* needs arguments \(size\), and a name can't give any"),
        ("{file}:NUMBER", {}, "NUMBER in .* is a int; name a function that returns a model"),
        ("{file}:mak", {}, r"unknown factory in .*known: make, sized; did you mean 'make'"),
        ("{broken}:make", {}, r"broken.py cannot be run at line 2: ZeroDivisionError"),
        ("model.pth", {}, r"cannot read the model name 'model.pth'; .*--checkpoint file"),
    ],
)
def test_names_that_name_no_model(tmp_path: Path, name: str, arguments: dict[str, Any], message: str) -> None:
    file, broken = tmp_path / "models.py", tmp_path / "broken.py"
    file.write_text(
        "import torch\nNUMBER = 3\ndef make(): return torch.nn.Linear(2, 2)\n"
        "def sized(size): return torch.nn.Linear(size, 2)\n"
    )
    broken.write_text("import os\n1 / 0\n")
    with pytest.raises(InputError, match=message):
        load_model(name.format(file=file, broken=broken), **arguments)
