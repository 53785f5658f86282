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


class Flagged(nn.Module):
    def forward(self, x: Tensor, double: bool = False, mask: Tensor | None = None) -> Tensor:
        x = x * 2 if double else x
        return x if mask is None else x * mask


class Rolls(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.fc(x)


@pytest.mark.parametrize(
    ("batch", "kept", "example"),
    [((2, 4), (2, 4), 2), ((3, 8), (3, 8), 3), ((1, 1), None, 1), ((8, 8), None, 8)],
)
def test_a_range_of_any_size(batch: tuple[int, int], kept: tuple[int, int] | None, example: int) -> None:
    program = capture(nn.Linear(3, 2).eval(), CPU, torch.randn(1, 3), vitc.BatchRange(*batch))
    assert program.batch == (None if kept is None else vitc.BatchRange(*kept))
    assert program.example_inputs[0].shape == (example, 3)


def test_a_range_that_is_none() -> None:
    with pytest.raises(InputError, match=r"BatchRange\(4, 2\) is no range; .* as BatchRange\(1, 8\)"):
        capture(nn.Linear(3, 2).eval(), CPU, torch.randn(2, 3), vitc.BatchRange(4, 2))


def test_one_tensor_given_twice_is_two_inputs() -> None:
    x = torch.randn(2, 3)
    program = capture(TwoInputs().eval(), CPU, (x, x))
    image, scale = torch.randn(3, 3), torch.randn(3, 3)
    torch.testing.assert_close(program.run(image, scale)[0], image * scale)


def test_a_scalar_and_a_shared_table_have_no_batch() -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor, heat: Tensor, table: Tensor) -> Tensor:
            return x * heat + table

    program = capture(Model().eval(), CPU, (torch.randn(2, 5, 3), torch.tensor(2.0), torch.randn(5, 3)))
    x, heat, table = torch.randn(7, 5, 3), torch.tensor(3.0), torch.randn(5, 3)
    torch.testing.assert_close(program.run(x, heat, table)[0], x * heat + table)


def test_flags_are_fixed_as_given() -> None:
    program = capture(Flagged().eval(), CPU, {"x": torch.randn(2, 3), "double": True, "mask": None})
    assert program.fixed_inputs == {"double": True, "mask": None}
    assert [n.name for n in program.graph.nodes if n.op == "placeholder"] == ["x"]
    x = torch.randn(4, 3)
    torch.testing.assert_close(program.run(x)[0], 2 * x)
    torch.testing.assert_close(program(x), 2 * x)


def test_dynamic_sizes_keep_their_names() -> None:
    sizes = {0: torch.export.Dim("b", min=1, max=16), 1: torch.export.Dim("tokens", min=2, max=77)}
    exported = torch.export.export(nn.ReLU(), (torch.randn(2, 10),), dynamic_shapes=(sizes,))
    program = capture(exported, CPU)
    assert {d.name: (d.range.min, d.range.max) for d in program.dims.values()} == {"batch": (1, 16), "tokens": (2, 77)}


def test_an_example_that_the_model_does_not_take_is_told_apart() -> None:
    with pytest.raises(InputError, match=r"Linear itself fails on its example inputs \(float32\[2, 5\]\).*float32"):
        capture(nn.Linear(3, 2).eval(), CPU, torch.randn(2, 5))
    with pytest.raises(InputError, match=r"its weights are float16"):
        capture(nn.Linear(3, 2).half().eval(), CPU, torch.randn(2, 3))
    with pytest.raises(InputError, match=r"Linear.forward\(input: .*\).* does not take the example inputs"):
        capture(nn.Linear(3, 2).eval(), CPU, {"pixels": torch.randn(2, 3)})


def test_a_part_left_in_training_mode_is_named() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout()).eval()
    model[1].train()
    with pytest.raises(
        CaptureError, match=r"1 parts of the model are in training mode, first '1'; call model.eval\(\)"
    ):
        capture(model, CPU, torch.randn(2, 3))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Rolls(), r"forward writes to the buffer calls; .* keeps nothing from one call to the next"),
        (torch.jit.trace(nn.Linear(3, 3), torch.randn(2, 3)), "the model is TorchScript"),
        (nn.Linear(3, 3, device="meta"), "'weight' is on the device meta; load its weights first"),
        (nn.Linear(3, 3).bfloat16(), r"computes in bfloat16.*call model.float\(\) or model.half\(\)"),
    ],
    ids=["buffer", "script", "meta", "bfloat16"],
)
def test_what_no_compiled_model_can_do(model: nn.Module, message: str) -> None:
    x = torch.randn(2, 3).to(next(model.parameters()).dtype)
    with pytest.raises(CaptureError, match=message):
        capture(model.eval(), CPU, x)


def test_random_numbers_are_refused_by_the_users_module() -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.rand_like(x)

    with pytest.raises(CaptureError, match="draws random numbers"):
        capture(Model().eval(), CPU, torch.randn(2, 3))


def test_writing_into_an_input_is_refused() -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x += 1
            return x

    with pytest.raises(CaptureError, match="forward writes into its input x; clone it first"):
        capture(Model().eval(), CPU, torch.randn(2, 3))
