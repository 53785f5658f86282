"""The command line: what it prints and how it exits."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path

import pytest

from vitc.cli import main
from vitc.exit_codes import CHECK_FAILED, USAGE, USER_ERROR

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
    """What the command prints: on stdout, or, where it is to end with another code than 0, on stderr."""
    out, err, ended = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patched, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patched.setattr(sys, "argv", ["vitc", *arguments])
        try:
            main()
        except SystemExit as end:
            ended = int(end.code or 0)
    assert ended == code, err.getvalue()
    return out.getvalue() if code == 0 else err.getvalue()


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
    assert vitc("lint", str(bundle)).startswith("model.onnx on cpu, ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("plan", "timn:vit"), "cannot read the model name 'timn:vit'"),
        (("plan", "nowhere.py:make"), "there is no file 'nowhere.py'"),
        (("plan", "nowhere.pt2"), "there is no file 'nowhere.pt2'"),
        (("diff", "a.txt", "b.txt"), "there is no dump 'a.txt'"),
    ],
)
def test_user_errors(arguments: tuple[str, ...], message: str) -> None:
    assert message in vitc(*arguments, code=USER_ERROR)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--target", "orinn"), "did you mean 'orin'"),
        (("--calibration", "nowhere"), "there is no folder of images and no .npy file 'nowhere'"),
        (("--pipeline", "tile-atention"), "did you mean 'tile-attention'"),
        (("--max-drop", "0.1"), "pass calibration="),
        (("--batch", "many"), "--batch takes a range as 1:64, one size as 8, or none; got 'many'"),
        (("--evaluate", "score"), "--evaluate takes file.py:function, got 'score'"),
        (("--evaluate", "nowhere.py:score"), "there is no file 'nowhere.py'"),
        (("--size", "big"), "--size takes a side in pixels, as 224, or height and width, as 192x256; got 'big'"),
    ],
)
def test_what_is_cheap_is_checked_before_a_model_is_loaded(arguments: tuple[str, ...], message: str) -> None:
    assert message in vitc("compile", "timm:no_such_model", "-o", "out", *arguments, code=USER_ERROR)


def test_a_place_where_no_bundle_may_go_is_said_before_a_model_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("kept")
    assert "is not a vitc bundle" in vitc("compile", "timm:no_such", "-o", str(tmp_path / "mine"), code=USER_ERROR)
    assert (tmp_path / "mine" / "letter.txt").read_text() == "kept"


def test_a_model_without_a_config_takes_its_size_from_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("import torch\ndef net(): return torch.nn.Conv2d(3, 8, 4, 4).eval()\n")
    name = f"{tmp_path / 'net.py'}:net"
    message = vitc("plan", name, code=USER_ERROR)
    assert "Conv2d has no config that tells its input; pass --size 224" in message
    assert "example_inputs" not in message
    assert "pipeline" in vitc("plan", name, "--size", "16x32")


def test_a_function_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "score.py").write_text("score = 3\n")
    message = vitc("compile", "timm:x", "-o", "out", "--evaluate", f"{tmp_path / 'score.py'}:score", code=USER_ERROR)
    assert "is a int, not a function" in message


def test_what_is_said_of_pictures_and_classes_is_in_the_bundle(tmp_path: Path) -> None:
    from vitc.bundle import read_bundle

    labels = tmp_path / "labels.txt"
    labels.write_text("".join(f"class {i}\n" for i in range(10)))
    given = ("--mean", "0.1,0.2,0.3", "--std", "0.4,0.5,0.6", "--size", "32", "--num-classes", "10")
    name = ("timm:vit_tiny_patch16_224", "--random-weights")
    vitc("compile", *name, *given, "--labels", str(labels), "-o", str(tmp_path / "bundle"))
    manifest = read_bundle(tmp_path / "bundle").manifest
    assert manifest.inputs[0].preprocessing is not None
    assert manifest.inputs[0].preprocessing["mean"] == [0.1, 0.2, 0.3]
    assert manifest.inputs[0].shape[1:] == (3, 32, 32)
    assert manifest.task is not None
    assert manifest.task.labels[3] == "class 3"
    message = vitc("plan", *name, "--mean", "0.1,0.2,0.3", code=USER_ERROR)
    assert "--mean and --std go together" in message
    message = vitc("plan", *name, "--mean", "0.1", "--std", "0.4", code=USER_ERROR)
    assert "--mean takes a number per channel, as 0.485,0.456,0.406; got '0.1'" in message
    message = vitc("plan", *name, "--labels", str(tmp_path / "none.txt"), code=USER_ERROR)
    assert "labels cannot be read from" in message


COMMANDS = (
    "bench", "build", "check", "compile", "diff", "doctor", "dump", "explore", "groups", "lint", "passes", "plan",
    "run", "sensitivity", "sign", "targets", "verify",
)  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_help_lists_the_options_and_a_wrong_command_line_is_one(command: str) -> None:
    shown = vitc(command, "--help")
    assert "--json" in shown or command in ("diff", "dump", "explore")
    assert "--no-such-option" in vitc(command, "--no-such-option", code=USAGE) or command in (
        "build",
        "run",
        "bench",
        "check",
        "verify",
    )


@pytest.mark.parametrize("command", ["build", "run", "bench", "check", "verify"])
def test_the_runtime_s_commands_end_with_the_same_codes(command: str, tmp_path: Path) -> None:
    assert "nowhere" in vitc(command, str(tmp_path / "nowhere"), code=USER_ERROR)


def test_a_bundle_is_signed_and_verified(model: str, tmp_path: Path) -> None:
    minisign = pytest.importorskip("minisign")
    pair = minisign.KeyPair.generate()
    (tmp_path / "key").write_bytes(bytes(pair.secret_key))
    (tmp_path / "key.pub").write_bytes(bytes(pair.public_key))
    vitc("compile", model, "--out", str(tmp_path / "bundle"))
    public = ("--key", str(tmp_path / "key.pub"))
    assert "is not signed" in vitc("verify", str(tmp_path / "bundle"), *public, code=USER_ERROR)
    assert "no signature was asked for" in vitc("verify", str(tmp_path / "bundle"))
    assert "bundle.minisig" in vitc("sign", str(tmp_path / "bundle"), "--key", str(tmp_path / "key"))
    assert "signed with this key: vitc " in vitc("verify", str(tmp_path / "bundle"), *public)


def test_a_damaged_bundle(model: str, tmp_path: Path) -> None:
    import numpy as np

    from vitc.bundle import read_bundle

    bundle = tmp_path / "bundle"
    vitc("compile", model, "--out", str(bundle))
    golden = read_bundle(bundle).path / "golden" / "0" / "output_0.npy"
    wrong = np.load(golden) * -1
    np.save(golden, wrong)
    assert vitc("check", str(bundle), code=USER_ERROR)  # the hash of the file is another


def test_unknown_factory(model: str) -> None:
    assert "unknown factory" in vitc("plan", model.replace(":tiny", ":tinny"), code=USER_ERROR)


def test_no_calibration_file(model: str) -> None:
    assert "there is no folder of images and no .npy file 'none.npy'" in vitc(
        "plan", model, "--calibration", "none.npy", code=USER_ERROR
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
    assert vitc("lint", str(tmp_path / "integers.onnx"), code=CHECK_FAILED) == ""
    assert "there is no ONNX file 'none.onnx'" in vitc("lint", "none.onnx", code=USER_ERROR)
    assert "unknown engine 'tensorrt 9'" in vitc(
        "lint", str(tmp_path / "clean.onnx"), "--engine", "tensorrt 9", code=USER_ERROR
    )


def test_groups_are_what_pruning_can_cut(model: str) -> None:
    out = vitc("groups", model, "--random-weights")
    assert "mlp    blocks.0.mlp.0:mlp" in out
    assert "kept   head" in out
    data = json.loads(vitc("groups", model, "--random-weights", "--json"))
    assert {"name": "blocks.0.attn:heads", "kind": "heads"}.items() <= data["groups"][-2].items()
    assert data["kept"] == [{"path": "head", "count": 10, "reason": "the model returns them"}]


def test_plan_takes_what_compile_takes(model: str) -> None:
    out = vitc("plan", model, "--prune", "0.3", "--batch", "1:4", "--quantize", "none", "--numerics", "1")
    assert "prune{ratio=0.3}" in out
    assert "of the largest output behind prune{ratio=0.3}" in out


def test_compile_prunes(model: str, tmp_path: Path) -> None:
    out = vitc("compile", model, "--random-weights", "--prune", "flops=0.3", "-o", str(tmp_path / "pruned"))
    assert "prune{ratio=0.3,of=flops}" in out
    message = vitc(
        "compile", model, "--random-weights", "--prune", "much", "-o", str(tmp_path / "pruned"), code=USER_ERROR
    )
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
        "sensitivity", model, "--calibration", str(images), "--by", "node", code=USER_ERROR
    )
    images.write_bytes(b"\x93NUMPY of another kind")
    assert "is no readable .npy file" in vitc("sensitivity", model, "--calibration", str(images), code=USER_ERROR)
