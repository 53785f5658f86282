"""Capture: what is inferred, what stays dynamic, and errors that name the user's own line."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import vitc
from vitc.errors import CaptureError, InputError
from vitc.frontend.capture import capture

CPU = vitc.load_target("cpu")


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:  # the guilty line
            return x + 1
        return x


class CountsImages(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x[i] * i for i in range(len(x))])  # the guilty line


class TwoInputs(nn.Module):
    def forward(self, image: Tensor, scale: Tensor) -> dict[str, Tensor]:
        return {"product": image * scale, "sum": image + scale}


def _guilty_line(cls: type) -> int:
    lines, start = inspect.getsourcelines(cls)
    return start + next(i for i, line in enumerate(lines) if "the guilty line" in line)


def test_data_dependent_control_flow_names_the_users_line() -> None:
    with pytest.raises(CaptureError) as caught:
        capture(Branches().eval(), CPU, torch.randn(2, 3))
    text = str(caught.value)
    assert text.startswith("torch.export cannot capture Branches")
    assert f"{Path(__file__).name}:{_guilty_line(Branches)} in forward" in text
    assert "torch.where, torch.cond" in text


def test_a_batch_used_as_a_number_says_how_to_go_on() -> None:
    with pytest.raises(CaptureError, match=r"cannot capture CountsImages.*batch=None for a fixed size"):
        capture(CountsImages().eval(), CPU, torch.randn(2, 3))
    fixed = capture(CountsImages().eval(), CPU, torch.randn(2, 3), batch=None)
    assert fixed.batch is None
    x = torch.randn(2, 3)
    torch.testing.assert_close(fixed.run(x)[0], CountsImages()(x))


def test_a_model_in_training_mode_is_refused() -> None:
    with pytest.raises(CaptureError, match=r"in training mode; call model.eval\(\) first"):
        capture(nn.Linear(2, 2), CPU, torch.randn(2, 2))


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(InputError, match=r"must be a torch.nn.Module or a torch.export.ExportedProgram, got str"):
        capture("timm:vit", CPU)  # type: ignore[arg-type]


def test_a_model_without_a_config_asks_for_an_example() -> None:
    with pytest.raises(InputError, match=r"Linear has no config.*pass example_inputs=torch.randn\(2, 3, 224, 224\)"):
        capture(nn.Linear(2, 2).eval(), CPU)


def test_an_example_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(InputError, match="example_inputs must be a tensor, a tuple or a dict, got int"):
        capture(nn.Linear(2, 2).eval(), CPU, 3)  # type: ignore[arg-type]


@pytest.mark.parametrize("as_dict", [False, True], ids=["tuple", "dict"])
def test_several_inputs_by_position_or_name(as_dict: bool) -> None:
    image, scale = torch.randn(1, 3), torch.randn(1, 3)
    program = capture(TwoInputs().eval(), CPU, {"image": image, "scale": scale} if as_dict else (image, scale))
    assert [n.name for n in program.graph.nodes if n.op == "placeholder"] == ["image", "scale"]
    larger = torch.randn(5, 3), torch.randn(5, 3)
    for got, want in zip(program.run(*larger), TwoInputs()(*larger).values(), strict=True):
        torch.testing.assert_close(got, want)


def test_an_exported_program_keeps_its_batch_range() -> None:
    batch = torch.export.Dim("batch", min=2, max=9)
    exported = torch.export.export(nn.Linear(3, 2), (torch.randn(4, 3),), dynamic_shapes=({0: batch},))
    program = capture(exported, CPU)
    assert program.batch == vitc.BatchRange(2, 9)


def test_an_exported_program_without_inputs_is_refused() -> None:
    exported = torch.export.export(nn.Linear(3, 2), (torch.randn(4, 3),))
    exported._example_inputs = None
    with pytest.raises(CaptureError, match="carries no example inputs; export it again"):
        capture(exported, CPU)


def test_every_node_knows_the_users_module() -> None:
    from vitc.graph.nodes import module_path

    model = nn.Sequential(nn.Sequential(nn.Linear(3, 3)), nn.Linear(3, 2)).eval()
    program = capture(model, CPU, torch.randn(2, 3))
    paths = [module_path(n) for n in program.graph.nodes if n.target is torch.ops.aten.linear.default]
    assert paths == ["0.0", "1"]
