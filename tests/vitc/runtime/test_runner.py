"""A bundle loaded, called, checked and timed."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_models import WIDTH

from vitc.bundle import BundleContents, Dim, Golden, TensorInfo, Tolerance, write_bundle
from vitc.errors import BuildError, BundleError, InputError, VitcError
from vitc.exit_codes import CHECK_FAILED, USER_ERROR
from vitc.runtime import check, load
from vitc.runtime.__main__ import main
from vitc.runtime.feeds import bind


@pytest.fixture
def path(contents: BundleContents, tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "b.vitc", contents).path


def golden(contents: BundleContents) -> tuple[np.ndarray, np.ndarray]:
    return contents.golden[0].inputs["x"], contents.golden[0].outputs["y"]  # type: ignore[return-value]


@pytest.mark.parametrize("form", ["folder", "file"])
@pytest.mark.parametrize("engine", ["auto", "cpu", "onnxruntime", "openvino"])
def test_calls_give_the_model_s_structure(form: str, engine: str, contents: BundleContents, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b", contents, form)  # type: ignore[arg-type]
    x, y = golden(contents)
    with load(bundle.path, engine, threads=1) as runner:
        assert runner.self_check().passed
        for out in (runner(x), runner(x=x)):
            assert isinstance(out, tuple)
            np.testing.assert_allclose(out[0], y, atol=1e-5)
        np.testing.assert_allclose(runner.run(x[:1])["y"], y[:1], atol=1e-5)
        assert (engine in ("auto", "cpu")) or runner.engine.name == engine
        assert runner.reason.startswith("asked for" if engine != "auto" else "no TensorRT engine here: no engine")


def test_an_array_that_is_not_in_row_order(path: Path, contents: BundleContents) -> None:
    x, y = golden(contents)
    with load(path, threads=1) as runner:
        np.testing.assert_allclose(runner(np.asfortranarray(x))[0], y, atol=1e-5)
        np.testing.assert_allclose(runner(x[::-1])[0], y[::-1], atol=1e-5)


def test_several_threads(path: Path, contents: BundleContents) -> None:
    x, y = golden(contents)
    with load(path, threads=1) as runner, ThreadPoolExecutor(6) as pool:
        for out in pool.map(lambda i: (i, runner(x[i % 2 : i % 2 + 1])[0]), range(60)):
            np.testing.assert_allclose(out[1], y[out[0] % 2 : out[0] % 2 + 1], atol=1e-5)


FLOATS = np.zeros((2, 5, WIDTH), np.float32)
TAKES = "the model takes 1: x float32 [batch, 5, 24]"


@pytest.mark.parametrize(
    ("arrays", "named", "message"),
    [
        ((), {}, f"got no array for 'x'; {TAKES}"),
        ((FLOATS, FLOATS), {}, f"got 2 arrays; {TAKES}"),
        ((), {"pixels": FLOATS}, f"got an array for 'pixels', which is no input; {TAKES}"),
        ((FLOATS,), {"x": FLOATS}, "got the input 'x' twice, by position and by name"),
        (
            (FLOATS.astype(np.float64),),
            {},
            "x float32 [batch, 5, 24], got float64 [2, 5, 24]: convert it, with astype('float32')",
        ),
        (
            (FLOATS[0],),
            {},
            "input 'x' must be x float32 [batch, 5, 24], of 3 dimensions; got float32 [5, 24]",
        ),
        ((FLOATS[:, :4],), {}, "got float32 [2, 4, 24]: dimension 1 is not 5"),
        (
            (np.zeros((9, 5, WIDTH), np.float32),),
            {},
            "with batch from 1 to 4; got float32 [9, 5, 24]: batch is 9",
        ),
        ((FLOATS[:0],), {}, "got float32 [0, 5, 24]: batch is 0"),
    ],
)
def test_wrong_inputs(path: Path, arrays: Any, named: Any, message: str) -> None:
    with load(path, threads=1) as runner, pytest.raises(InputError) as caught:
        runner(*arrays, **named)
    assert message in str(caught.value)


def test_inputs_that_must_agree() -> None:
    infos = (TensorInfo("image", "float32", ("batch", 3)), TensorInfo("mask", "bool", ("batch",)))
    with pytest.raises(InputError, match="input 'mask' has batch 3, input 'image' has 2: they must agree"):
        bind(infos, {"batch": Dim(1, 4)}, (np.zeros((2, 3), np.float32), np.zeros(3, bool)), {})


def test_unknown_and_missing_engines(path: Path) -> None:
    with pytest.raises(VitcError, match=r"unknown engine 'tensort'; known: .*did you mean 'tensorrt'"):
        load(path, "tensort")
    with pytest.raises(BuildError, match=r"no engine was built for .*: python -m vitc.runtime build"):
        load(path, "tensorrt")


# -- self-check


def test_a_wrong_output_fails_the_check(contents: BundleContents, tmp_path: Path) -> None:
    x, y = golden(contents)
    wrong = replace(contents, golden=(Golden({"x": x}, {"y": y}), Golden({"x": x}, {"y": y * 1.01})))
    with load(write_bundle(tmp_path / "b", wrong).path, threads=1) as runner:
        report = runner.self_check()
    assert [row.passed for row in report.rows] == [True, False]
    assert report.rows[1].relative == pytest.approx(0.01 / 1.01, rel=1e-3)
    assert not report.passed
    assert "FAILED (needs cosine >= 0.99999, relative error <= 0.0001)" in str(report)
    assert "FAIL pair 1 y: cosine 1.000000, relative error 9.90e-03" in str(report)


def test_without_golden_outputs_there_is_nothing_to_check(contents: BundleContents, tmp_path: Path) -> None:
    with (
        load(write_bundle(tmp_path / "b", replace(contents, golden=())).path, threads=1) as runner,
        pytest.raises(BundleError, match="holds no golden outputs: there is nothing to check against"),
    ):
        runner.self_check()


def test_comparing() -> None:
    def row(got: Any, want: Any, dtype: str = "float32") -> check.CheckRow:
        return check.compare(0, "y", np.array(got, dtype), np.array(want, "float32"), Tolerance(0.99, 0.1))

    assert row([3, 4], [3, 4]).passed
    assert (row([0, 0], [0, 0]).passed, row([0, 1], [0, 0]).passed, row([0, 0], [0, 1]).passed) == (
        True,
        False,
        False,
    )
    assert row([4, 3], [3, 4]).cosine == pytest.approx(24 / 25)
    assert row([6, 8], [3, 4]).relative == pytest.approx(1.0)
    assert row([float("nan"), 4], [3, 4]).detail == "1 of 2 values are NaN or infinite"
    assert row([3, 4, 5], [3, 4]).detail == "is float32 [3], golden is float32 [2]"
    assert not row([3, 4], [3, 4], "float64").passed


# -- benchmark


def test_a_benchmark(path: Path) -> None:
    with load(path, threads=1) as runner:
        report = runner.benchmark(batch=3, rounds=20, warmup=1)
    assert (report.batch, report.rounds, report.warmup) == (3, 20, 1)
    assert 0 < report.min_ms <= report.p50_ms <= report.p90_ms <= report.p99_ms
    assert report.images_per_s == pytest.approx(3e3 / report.mean_ms)
    assert set(report.versions) == {"vitc", runner.engine.name, "numpy", "python", "system"}
    assert report.power.rails is None
    assert "not a Jetson" in str(report)


def test_a_benchmark_without_golden_inputs(contents: BundleContents, tmp_path: Path) -> None:
    with load(write_bundle(tmp_path / "b", replace(contents, golden=())).path, threads=1) as runner:
        assert runner.benchmark(rounds=1, warmup=0).batch == 1


# -- command line


def test_commands(path: Path, contents: BundleContents, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x, y = golden(contents)
    np.save(tmp_path / "x.npy", x)
    assert main(["check", str(path), "--threads", "1"]) == 0
    assert "passed (needs cosine >= 0.99999" in capsys.readouterr().out
    out = tmp_path / "out"
    assert main(["run", str(path), "--input", f"x={tmp_path / 'x.npy'}", "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"y: float32 [2, 5, {WIDTH}]\n"
    np.testing.assert_allclose(np.load(out / "y.npy"), y, atol=1e-5)
    assert main(["run", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["outputs"] == {"y": {"dtype": "float32", "shape": [1, 5, WIDTH]}}
    assert main(["bench", str(path), "--rounds", "3", "--batch", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["batch"] == 2
    assert main(["build", str(path)]) == 0
    assert "for a CPU, whose engine needs no build" in capsys.readouterr().out


def test_exit_codes(path: Path, contents: BundleContents, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tmp_path / "nowhere")]) == USER_ERROR
    assert "error: there is no bundle at" in capsys.readouterr().err
    assert main(["run", str(path), "--input", "x"]) == USER_ERROR
    assert "--input takes NAME=FILE.npy, got 'x'" in capsys.readouterr().err
    assert main(["run", str(path), "--input", "x=nowhere.npy"]) == USER_ERROR
    assert "--input x=nowhere.npy: not an array in NumPy's format" in capsys.readouterr().err
    x, y = golden(contents)
    wrong = write_bundle(tmp_path / "wrong", replace(contents, golden=(Golden({"x": x}, {"y": -y}),))).path
    assert main(["check", str(wrong), "--json"]) == CHECK_FAILED
    assert json.loads(capsys.readouterr().out)["passed"] is False


WITHOUT_TORCH = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "typer", "rich", "networkx", "tensorrt"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Block())
from vitc.runtime.__main__ import main
commands = (["check"], ["run"], ["bench", "--rounds", "2"])
codes = [main([command, sys.argv[1], *more]) for command, *more in commands]
print(codes, "torch" in sys.modules)
"""


@pytest.mark.parametrize("form", ["folder", "file"])
def test_everything_works_where_torch_can_not_be_imported(form: str, contents: BundleContents, tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "b", contents, form).path  # type: ignore[arg-type]
    command = [sys.executable, "-c", WITHOUT_TORCH, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[0, 0, 0] False"


def test_the_bundle_s_own_script(path: Path, tmp_path: Path) -> None:
    environment = {"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"}
    done = subprocess.run(["./build.sh"], cwd=path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "needs no build" in done.stdout
    assert "self-check on" in done.stdout
    missing = subprocess.run(
        ["./build.sh"], cwd=path, env={**environment, "PYTHON": "/bin/false"}, capture_output=True, text=True
    )
    assert missing.returncode == 2
    assert "can't import vitc.runtime; install it" in missing.stderr


def test_the_script_says_what_the_plugin_needs(contents: BundleContents, tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "b", replace(contents, plugin={"CMakeLists.txt": b""})).path
    # A PATH with a shell's tools and neither cmake nor nvcc.
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "dirname"):
        (tools / name).symlink_to(f"/usr/bin/{name}")
    environment = {"PYTHON": sys.executable, "PATH": str(tools)}
    (tmp_path / "tensorrt.py").write_text("")
    with_tensorrt = {**environment, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(["./build.sh"], cwd=path, env=with_tensorrt, capture_output=True, text=True)
    assert done.returncode == 2
    assert "the attention plugin needs cmake, which is not installed" in done.stderr
    # TensorRT-RTX has no compiled plugin: there is nothing to build, and so no tool to miss.
    done = subprocess.run(["./build.sh"], cwd=path, env=environment, capture_output=True, text=True)
    assert "has no tensorrt, which the compiled plugin is for" in done.stdout
    assert "cmake" not in done.stderr


# -- odd inputs


def bad_at(place: tuple[int, ...], value: float) -> np.ndarray:
    array = np.zeros((3, 5, WIDTH), np.float32)
    array[place] = value
    return array


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinite_values_are_named_with_their_image(path: Path, value: float) -> None:
    with load(path, "onnxruntime", threads=1) as runner:
        with pytest.raises(
            InputError, match=r"'x' holds 1 NaN or infinite values, the first at \[2, 1, 7\] of image 2"
        ):
            runner(bad_at((2, 1, 7), value))
        runner(bad_at((2, 1, 7), 3e38))  # its square is infinite, itself it is not
    with load(path, "onnxruntime", threads=1, check_inputs="none") as runner:
        assert not np.isfinite(runner(bad_at((2, 1, 7), value))[0]).all()
    with pytest.raises(InputError, match="unknown value of check_inputs 'nan'; known: finite, none"):
        load(path, check_inputs="nan")


def test_tensors_of_every_kind(path: Path) -> None:
    import torch

    zeros = torch.zeros(2, 5, WIDTH)
    with load(path, "onnxruntime", threads=1) as runner:
        runner(zeros.clone().requires_grad_())
        for odd, message in (
            (zeros.bfloat16(), "'x' can't be an array: .*BFloat16"),
            (zeros.to("meta"), "'x' can't be an array"),
            (zeros.to_sparse(), "'x' is a sparse or quantized tensor"),
            (torch.quantize_per_tensor(zeros, 0.1, 0, torch.qint8), "'x' is a sparse or quantized tensor"),
            ([[1.0], [2.0, 3.0]], "'x' can't be an array"),
            (object(), "'x' holds object; the model takes numbers or booleans"),
            (zeros.numpy().astype(complex), "'x' holds complex128"),
            ("text", "'x' holds <U4"),
        ):
            with pytest.raises(InputError, match=message):
                runner(odd)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 200_000}, "takes batch 1 to 4, asked to time batch 200000"),
        ({"batch": -1}, "takes batch 1 to 4, asked to time batch -1"),
        ({"batch": 1.5}, "a batch is a whole number, got 1.5"),
        ({"rounds": 0}, "needs rounds from 1 to 1000000, got 0"),
        ({"rounds": 10**9}, "needs rounds from 1 to 1000000, got 1000000000"),
        ({"warmup": -1}, "needs warmup from 0 to 1000000, got -1"),
    ],
)
def test_benchmarks_that_are_refused(path: Path, options: dict[str, Any], message: str) -> None:
    with load(path, "onnxruntime", threads=1) as runner, pytest.raises(InputError, match=message):
        runner.benchmark(**options)


def test_a_benchmark_allocates_nothing_before_it_knows_how_much(contents: BundleContents, tmp_path: Path) -> None:
    wide = replace(contents, dims={"batch": Dim(1, 2**21)})
    with (
        load(write_bundle(tmp_path / "b", wide).path, "onnxruntime", threads=1) as runner,
        pytest.raises(
            InputError, match="inputs of batch 2000000 would have 960000000 bytes; a benchmark makes at most"
        ),
    ):
        runner.benchmark(batch=2_000_000)


def test_a_manifest_of_another_model(contents: BundleContents, tmp_path: Path) -> None:
    x, y = golden(contents)
    renamed = replace(contents, inputs=(replace(contents.inputs[0], name="z"),), golden=(Golden({"z": x}, {"y": y}),))
    narrow = replace(contents, inputs=(replace(contents.inputs[0], shape=("batch", 5, 3)),), golden=())
    for other, message in ((renamed, "the manifest has the inputs"), (narrow, "gives the input 'x' the shape")):
        with pytest.raises(BundleError, match=message):
            load(write_bundle(tmp_path / "b", other).path, "onnxruntime", threads=1)
