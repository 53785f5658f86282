"""The ONNX file: names, provenance, one file or two."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import vitc
from vitc.lowering.onnx import model as onnx_model
from vitc.lowering.onnx.model import OnnxModel


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(nn.functional.gelu(self.up(self.norm(x))))


@pytest.fixture(scope="module")
def lowered() -> OnnxModel:
    torch.manual_seed(0)
    model = nn.Sequential(Block(), Block()).eval()
    return vitc.plan(model, "cpu", example_inputs=torch.randn(2, 5, 16)).onnx


def test_the_checker_takes_it(lowered: OnnxModel) -> None:
    onnx.checker.check_model(lowered.proto, full_check=True)
    assert {o.domain: o.version for o in lowered.proto.opset_import} == {"": 20, "vitc": 1}


def test_weights_and_nodes_carry_the_users_names(lowered: OnnxModel) -> None:
    weights = {i.name for i in lowered.proto.graph.initializer if not i.name.startswith("const/")}
    assert weights == {
        f"{b}.{layer}.{kind}" for b in (0, 1) for layer in ("norm", "up", "down") for kind in ("weight", "bias")
    }
    names = [n.name for n in lowered.proto.graph.node]
    assert {"/0/up/MatMul", "/1/down/Add", "/1/norm/LayerNormalization"} <= set(names)
    assert len(set(names)) == len(names)


def test_inputs_and_outputs_say_what_is_dynamic(lowered: OnnxModel) -> None:
    assert [(s.name, s.shape) for s in (*lowered.inputs, *lowered.outputs)] == [
        ("input_1", ("batch", 5, 16)), ("output", ("batch", 5, 16)),
    ]  # fmt: skip


def test_a_model_over_the_limit_keeps_its_weights_beside_it(
    lowered: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lowered.save(tmp_path / "one.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["one.onnx"]
    monkeypatch.setattr(onnx_model, "_EXTERNAL_ABOVE", 0)
    before = [i.raw_data for i in lowered.proto.graph.initializer]
    lowered.save(tmp_path / "two.onnx")
    assert [i.raw_data for i in lowered.proto.graph.initializer] == before  # saving took nothing out of memory
    assert (tmp_path / "two.onnx.data").exists()
    x = np.random.default_rng(0).standard_normal((3, 5, 16)).astype(np.float32)
    one, two = (
        onnxruntime.InferenceSession(str(tmp_path / name), providers=["CPUExecutionProvider"]).run(
            None, {lowered.inputs[0].name: x}
        )
        for name in ("one.onnx", "two.onnx")
    )
    np.testing.assert_array_equal(one[0], two[0])


def test_a_bundle_of_a_large_model_carries_both_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_model, "_EXTERNAL_ABOVE", 0)
    model = Block().eval()
    bundle = vitc.compile(model, "cpu", example_inputs=torch.randn(2, 5, 16)).save(tmp_path / "bundle")
    assert (Path(bundle.path) / "model.onnx.data").exists()
    assert vitc.load(tmp_path / "bundle").self_check().passed
