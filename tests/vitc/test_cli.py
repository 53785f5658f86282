"""The command line: what it prints and how it exits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

MODEL = """
import torch
def tiny():
    from vitc.demo.digits import DigitsViT
    torch.manual_seed(0)
    model = DigitsViT(depth=1)
    model.default_cfg = {"input_size": (1, 8, 8)}
    return model
"""


def vitc(*arguments: str, code: int = 0) -> str:
    done = subprocess.run([sys.executable, "-m", "vitc.cli", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.fixture
def model(tmp_path: Path) -> str:
    path = tmp_path / "tiny.py"
    path.write_text(MODEL)
    return f"{path}:tiny"


def test_targets() -> None:
    assert "orin" in vitc("targets")
    assert any(t["name"] == "orin" for t in json.loads(vitc("targets", "--json")))


def test_passes() -> None:
    listed = vitc("passes")
    assert "quantize-int8{" in listed
    assert "tile-attention" in listed


def test_doctor() -> None:
    found = json.loads(vitc("doctor", "--json"))
    assert found["target cpu"] == "compiles and runs here"
    assert "on the device" in found["target orin"]


def test_plan_dump_diff(model: str, tmp_path: Path) -> None:
    report = json.loads(vitc("plan", model, "--target", "orin", "--json"))
    assert report["target"] == "orin"
    files = vitc("dump", model, str(tmp_path / "dumps"), "--target", "orin").split()
    assert Path(files[0]).name == "00-captured.txt"
    assert "aten.scaled_dot_product_attention" in vitc("diff", files[-3], files[-2])


def test_compile_then_check(model: str, tmp_path: Path) -> None:
    bundle = tmp_path / "tiny-bundle"
    out = vitc("compile", model, "--target", "cpu", "--out", str(bundle))
    assert "pipeline" in out
    vitc("check", str(bundle))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("plan", "timn:vit"), "cannot read the model name 'timn:vit'"),
        (("plan", "nowhere.py:make"), "there is no file 'nowhere.py'"),
        (("plan", "nowhere.pt2"), "there is no file 'nowhere.pt2'"),
        (("diff", "a.txt", "b.txt"), "there is no dump 'a.txt'"),
    ],
)
def test_user_errors_exit_with_1(arguments: tuple[str, ...], message: str) -> None:
    assert message in vitc(*arguments, code=1)


def test_unknown_factory(model: str) -> None:
    assert "unknown factory" in vitc("plan", model.replace(":tiny", ":tinny"), code=1)


def test_no_calibration_file(model: str) -> None:
    assert "there is no folder of images and no .npy file 'none.npy'" in vitc(
        "plan", model, "--calibration", "none.npy", code=1
    )


def test_lint(tmp_path: Path) -> None:
    import onnx
    from onnx import helper

    value = helper.make_tensor_value_info
    nodes = [helper.make_node("Softmax", ["x"], ["y"], name="/softmax")]
    graph = helper.make_graph(nodes, "g", [value("x", 1, [1, 4])], [value("y", 1, [1, 4])])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), str(tmp_path / "clean.onnx"))
    assert "TensorRT 10.3 (JetPack 6.2)" in vitc("lint", str(tmp_path / "clean.onnx"))
    assert json.loads(vitc("lint", str(tmp_path / "clean.onnx"), "--json"))["counts"]["error"] == 0

    nodes[0] = helper.make_node("QLinearMatMul", ["x"] * 8, ["y"], name="/product")
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), str(tmp_path / "integers.onnx"))
    assert vitc("lint", str(tmp_path / "integers.onnx"), code=3) == ""
    assert "there is no ONNX file 'none.onnx'" in vitc("lint", "none.onnx", code=1)
    assert "unknown engine 'tensorrt 9'" in vitc("lint", str(tmp_path / "clean.onnx"), "--engine", "tensorrt 9", code=1)


def test_plan_prints_the_groups_that_pruning_can_cut(model: str) -> None:
    out = vitc("plan", model, "--random-weights", "--prune")
    assert "mlp    blocks.0.mlp.0:mlp" in out
    assert "kept   head" in out
    data = json.loads(vitc("plan", model, "--random-weights", "--prune", "--json"))
    assert {"name": "blocks.0.attn:heads", "kind": "heads"}.items() <= data["groups"][-2].items()
    assert data["kept"] == [{"path": "head", "count": 10, "reason": "the model returns them"}]


def test_compile_prunes(model: str, tmp_path: Path) -> None:
    out = vitc("compile", model, "--random-weights", "--prune", "flops=0.3", "-o", str(tmp_path / "pruned"))
    assert "prune{ratio=0.3,of=flops}" in out
    message = vitc("compile", model, "--random-weights", "--prune", "much", "-o", str(tmp_path / "pruned"), code=1)
    assert "--prune takes 0.35, flops=0.4, latency=0.3 or a saved plan.json; got 'much'" in message


def test_sensitivity(model: str, tmp_path: Path) -> None:
    import numpy as np

    images = tmp_path / "images.npy"
    np.save(images, np.random.default_rng(0).standard_normal((8, 1, 8, 8)).astype(np.float32))
    found = json.loads(
        vitc("sensitivity", model, "--calibration", str(images), "--plot", str(tmp_path / "plot.svg"), "--json")
    )
    assert [row["name"] for row in found["rows"]] == ["blocks.0"]
    assert (tmp_path / "plot.svg").read_text().startswith("<svg")
    assert "by must be 'block' or 'layer', got 'node'" in vitc(
        "sensitivity", model, "--calibration", str(images), "--by", "node", code=1
    )
    images.write_bytes(b"\x93NUMPY of another kind")
    assert "is no readable .npy file" in vitc("sensitivity", model, "--calibration", str(images), code=1)
