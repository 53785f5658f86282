"""The TensorRT side without a GPU: a real build ahead of time, and the engine over a driver made in Python."""

from __future__ import annotations

import ctypes
import ctypes.util
import hashlib
import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from small_models import Graph

from vitc.bundle import Bundle, BundleContents, Dim, TensorInfo, VersionRange, write_bundle
from vitc.errors import BuildError, InputError
from vitc.exit_codes import USER_ERROR
from vitc.lowering.cpu import Port
from vitc.ownership import seal
from vitc.runtime import build, load, tensorrt_engine
from vitc.runtime.__main__ import main
from vitc.runtime.builder import Built, read_built
from vitc.runtime.cuda import Cuda
from vitc.runtime.tensorrt_engine import TensorRtEngine


@pytest.fixture
def for_orin(contents: BundleContents) -> BundleContents:
    """A model TensorRT-RTX surely builds: x [batch, 8, 8] -> Relu."""
    g = Graph()
    return replace(
        contents,
        model=g.model({"x": ["batch", 8, 8]}, g.op("Relu", ["x"]), ["batch", 8, 8]),
        inputs=(TensorInfo("x", "float32", ("batch", 8, 8)),),
        outputs=(TensorInfo("y", "float32", ("batch", 8, 8)),),
        golden=(),
        target={"name": "orin"},
        dims={"batch": Dim(1, 4)},
        tensorrt=VersionRange("10.3", "12"),
    )


def test_an_engine_is_built_ahead_of_time(
    for_orin: BundleContents, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorrt_rtx")
    bundle = write_bundle(tmp_path / "b", for_orin)
    assert main(["build", str(bundle.path), "--capability", "SM86", "--batch", "2", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["distribution"], said["capability"], said["batch"]) == ("tensorrt_rtx", "SM86", [1, 2, 4])
    plan = (tmp_path / "b.local" / "engine.plan").read_bytes()
    assert read_built(bundle).plan_sha256 == hashlib.sha256(plan).hexdigest()
    # Nothing was put into the bundle: it still reads. There is no driver here to run the engine.
    with load(bundle.path, threads=1) as runner:
        assert runner.engine.name in ("onnxruntime", "openvino")


def test_the_script_checks_the_engine_it_built_and_nothing_else(for_orin: BundleContents, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    if ctypes.util.find_library("cuda"):
        pytest.skip("a driver is here: the engine would run")
    path = write_bundle(tmp_path / "b", for_orin).path
    environment = {"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"}
    done = subprocess.run(["./build.sh"], cwd=path, env=environment, capture_output=True, text=True)
    assert "engine.plan: " in done.stdout
    assert (done.returncode, "needs an NVIDIA driver" in done.stderr) == (USER_ERROR, True)


def test_builds_that_are_refused(
    contents: BundleContents, for_orin: BundleContents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BuildError, match="is for the target 'cpu', whose engine needs no build; run it as it is"):
        build(write_bundle(tmp_path / "cpu", contents))
    bundle = write_bundle(tmp_path / "orin", for_orin)
    asked: list[str] = []
    registry = SimpleNamespace(load_library=asked.append)  # gives None, as TensorRT does for what is no plugin
    refusing = SimpleNamespace(__name__="tensorrt", __version__="10.3.0", get_plugin_registry=lambda: registry)
    monkeypatch.setattr("vitc.runtime.builder.tensorrt.find", lambda _: refusing)
    with pytest.raises(BuildError, match=r"the plugin nowhere\.so can't be read: .*; build it on this machine"):
        build(bundle, plugin=Path("nowhere.so"))
    (tmp_path / "libplugin.so").write_bytes(b"no library")
    with pytest.raises(BuildError, match=r"could not load the plugin; build it on this machine"):
        build(bundle, plugin=tmp_path / "libplugin.so")
    assert [Path(path).name for path in asked] == ["plugin.so"]
    old = SimpleNamespace(__name__="tensorrt", __version__="8.6.2")
    monkeypatch.setattr("vitc.runtime.builder.tensorrt.find", lambda _: old)
    with pytest.raises(BuildError, match=r"is for TensorRT >=10\.3,<12; 8\.6\.2 is installed"):
        build(bundle)
    new = SimpleNamespace(__name__="tensorrt", __version__="10.3.0")
    monkeypatch.setattr("vitc.runtime.builder.tensorrt.find", lambda _: new)
    with pytest.raises(InputError, match="the bundle takes batch 1 to 4, asked to tune for 9"):
        build(bundle, batch=9)


def forged(made: Bundle, sealed: bool, **changes: Any) -> None:
    """A record, an engine and a plugin beside the bundle."""
    made.work.mkdir()
    (made.work / "engine.plan").write_bytes(b"plan")
    (made.work / "plugin.so").write_bytes(b"library")
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("plan", "library")}
    built = replace(
        Built("tensorrt_rtx", "1.0", None, hashlib.sha256(made.head).hexdigest(), digests["library"], (1, 1, 1),
              digests["plan"], 1, "elsewhere"),
        **changes,
    )  # fmt: skip
    given = {"seal": seal(json.dumps(asdict(built), sort_keys=True).encode())} if sealed else {}
    (made.work / "engine.json").write_text(json.dumps(asdict(built) | given))


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A TensorRT that notes which libraries it is to load."""
    asked: list[str] = []
    registry = SimpleNamespace(load_library=lambda path: asked.append(path))
    fake = SimpleNamespace(__name__="tensorrt_rtx", __version__="1.0", get_plugin_registry=lambda: registry)
    monkeypatch.setattr("vitc.runtime.builder.tensorrt.load", lambda _: fake)
    return asked


def test_an_engine_that_somebody_else_built(for_orin: BundleContents, tmp_path: Path, trt: list[str]) -> None:
    """It is code, and nothing of it is loaded: not the plugin it names, not the plan."""
    bundle = write_bundle(tmp_path / "b", for_orin)
    forged(bundle, sealed=False)
    with pytest.raises(
        BuildError, match=r"not built by this user on this machine \(it says 'elsewhere', this is '.*'\)"
    ):
        load(bundle.path, "tensorrt")
    with load(bundle.path, threads=1) as runner:
        assert runner.engine.name in ("onnxruntime", "openvino")
    assert trt == []


@pytest.mark.parametrize(
    ("changes", "spoil", "message"),
    [
        ({}, lambda work: (work / "plugin.so").chmod(0o666), "plugin.so can be written by others: chmod go-w"),
        ({}, lambda work: (work / "plugin.so").write_bytes(b"other"), "plugin.so is damaged: built as .*, it has"),
        ({}, lambda work: (work / "engine.plan").write_bytes(b"other"), "engine.plan is damaged: built as .*, it has"),
        ({"version": "2.0"}, lambda work: None, "was built by tensorrt_rtx 2.0, installed is 1.0; build it again"),
        ({"bundle": "0" * 64}, lambda work: None, "was built from another bundle"),
        ({}, lambda work: (work / "engine.json").write_text("{}"), "engine.json is damaged"),
        ({}, lambda work: None, "could not load the plugin; build it on this machine"),
    ],
)
def test_an_engine_of_one_s_own_that_does_not_fit(
    changes: dict[str, Any], spoil: Any, message: str, for_orin: BundleContents, tmp_path: Path, trt: list[str]
) -> None:
    bundle = write_bundle(tmp_path / "b", for_orin)
    forged(bundle, sealed=True, **changes)
    spoil(bundle.work)
    with pytest.raises(BuildError, match=message):
        load(bundle.path, "tensorrt")
    # A plugin is loaded from a copy of the bytes that were checked.
    assert all(Path(path).parent != bundle.work for path in trt)


class Driver:
    """libcuda in Python: device memory is host memory that only these calls may touch."""

    def __init__(self) -> None:
        self.memory: dict[int, Any] = {}
        self.failing: dict[str, int] = {}
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> int:
            self.calls.append(name)
            if name in self.failing:
                return self.failing[name]
            return int(getattr(self, f"do_{name}", lambda *_: 0)(*arguments) or 0)

        if name.startswith("do_"):
            raise AttributeError(name)
        return call

    def do_cuMemAlloc_v2(self, pointer: Any, size: ctypes.c_size_t) -> None:
        buffer = ctypes.create_string_buffer(size.value)
        self.memory[ctypes.addressof(buffer)] = buffer
        pointer._obj.value = ctypes.addressof(buffer)

    def do_cuMemFree_v2(self, pointer: ctypes.c_uint64) -> None:
        del self.memory[pointer.value]

    def do_cuMemcpyHtoDAsync_v2(self, to: Any, source: Any, size: Any, _stream: Any) -> None:
        assert size.value <= len(self.memory[to.value])
        ctypes.memmove(to.value, source, size.value)

    def do_cuMemcpyDtoHAsync_v2(self, to: Any, source: Any, size: Any, _stream: Any) -> None:
        assert size.value <= len(self.memory[source.value])
        ctypes.memmove(to, source.value, size.value)

    def do_cuGetErrorString(self, code: int, text: Any) -> None:
        text._obj.value = f"error {code}".encode()


class Context:
    """An execution context that adds its two inputs into its output."""

    def __init__(self) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.runs = True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return shape[0] <= 4

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes["a"]

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def execute_async_v3(self, _stream: int) -> bool:
        count = int(np.prod(self.shapes["a"]))
        a, b, out = (
            np.ctypeslib.as_array((ctypes.c_float * count).from_address(self.addresses[n])) for n in ("a", "b", "out")
        )
        out[:] = a + b
        return self.runs


def fake_tensorrt(context: Context | None) -> Any:
    names = ["a", "b", "out"]
    engine = SimpleNamespace(
        num_io_tensors=3,
        get_tensor_name=names.__getitem__,
        get_tensor_mode=lambda name: "out" if name == "out" else "in",
        get_tensor_dtype=lambda _: "float",
        get_tensor_shape=lambda _: (-1, 3),
        create_execution_context=lambda: context,
    )
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda _: engine if context is not None else None)
    return SimpleNamespace(
        __name__="tensorrt",
        __version__="10.3.0",
        Runtime=lambda _: runtime,
        TensorIOMode=SimpleNamespace(INPUT="in", OUTPUT="out"),
        nptype=lambda _: np.float32,
    )


@pytest.fixture(autouse=True)
def _no_plugin(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "fake" in request.node.name:
        monkeypatch.setattr(tensorrt_engine.python_plugin, "register", lambda _: None)
        monkeypatch.setattr(tensorrt_engine, "build_log", lambda _: SimpleNamespace(logger=None))


def test_fake_engine_runs_batches_of_any_size() -> None:
    driver, context = Driver(), Context()
    engine = TensorRtEngine(fake_tensorrt(context), b"plan", Cuda(driver))
    assert engine.inputs == (Port("a", "float32", ("batch", 3)), Port("b", "float32", ("batch", 3)))
    assert engine.outputs == (Port("out", "float32", ("batch", 3)),)
    rng = np.random.default_rng(0)
    # Growing, shrinking and growing again: the buffers are kept, and made larger where they must.
    for batch in (2, 1, 4, 3):
        a, b = (rng.normal(size=(batch, 3)).astype(np.float32) for _ in range(2))
        np.testing.assert_array_equal(engine.run({"a": a, "b": b})["out"], a + b)
        assert len(driver.memory) == 3
    assert driver.calls.count("cuMemAlloc_v2") == 6
    with pytest.raises(InputError, match=r"does not take 'a' with shape \[5, 3\]"):
        engine.run({"a": np.zeros((5, 3), np.float32), "b": np.zeros((5, 3), np.float32)})
    context.runs = False
    with pytest.raises(BuildError, match=r"tensorrt 10\.3\.0 refused to run the engine"):
        engine.run({"a": a, "b": b})
    engine.close()
    engine.close()
    assert driver.memory == {}
    with pytest.raises(InputError, match="the tensorrt engine is closed"):
        engine.run({"a": a, "b": b})


def test_fake_engine_of_another_device() -> None:
    with pytest.raises(BuildError, match=r"tensorrt 10\.3\.0 could not load the engine: built for another device"):
        TensorRtEngine(fake_tensorrt(None), b"plan", Cuda(Driver()))


def test_fake_driver_that_fails_says_where() -> None:
    driver = Driver()
    driver.failing["cuMemAlloc_v2"] = 2
    with pytest.raises(BuildError, match="CUDA: cuMemAlloc_v2 failed with 2: error 2"):
        Cuda(driver).allocate(8)


def test_no_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_name: str) -> None:
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr("vitc.runtime.cuda.ctypes.CDLL", absent)
    with pytest.raises(BuildError, match=r"needs an NVIDIA driver, and there is none here \(libcuda\.so\.1"):
        Cuda()
